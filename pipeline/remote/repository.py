"""What stages know of a repository of versioned files, and how its name becomes one."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import RepositoryError
from pipeline.files import from_root
from pipeline.params import Network


@dataclass(frozen=True)
class Entry:
    """A file of a commit.

    Attributes:
        path: within the repository.
        size: bytes.
        hash: Oxen's name of its content, xxh3-128 in hex without leading zeros.
        rows: of a table, where the repository tells without reading it.
    """

    path: str
    size: int
    hash: str
    rows: int | None = None


class Repository(Protocol):
    """Files at commits. Every method raises RepositoryError, or BusyError when another holds it."""

    def resolve(self, revision: str) -> str:
        """The commit id that a branch or a full commit id names."""

    def entries(self, commit: str) -> list[Entry]:
        """Every file of a commit, sorted by path."""

    def fetch(self, commit: str, files: Mapping[str, str], folder: Path) -> None:
        """Write files of a commit into an empty `folder`, whole and checked against their hashes.

        Args:
            files: what a message calls a file (its key in params.yaml) -> its path at the commit.
            folder: keeps each file's path; the caller removes it when this fails or is killed.
        """

    def read(self, path: str) -> str | None:
        """One small text file at the head of the current branch; None when not there."""

    def commit(self, files: Mapping[str, Path], message: str) -> str | None:
        """Commit local files under the paths they are keyed by.

        Returns:
            the new commit's id, or None when the head already has all of them as they are.
        """


def open_repository(repo: str, network: Network, *, create: bool = False) -> Repository:
    """The repository that `bundled` or a path names; `create`: the first commit may make it.

    Raises:
        RepositoryError: there is none, what is there is no Oxen repository, or it is remote.
    """
    # Late: both implement the protocol above, and Oxen is slow to import.
    from pipeline.remote.bundled import BundledRepository
    from pipeline.remote.local import LocalRepository

    if repo == "bundled":
        if create:
            raise RepositoryError("bundled names can only be read: give the path of a repository")
        return BundledRepository()
    if re.match(r"https?://", repo, re.IGNORECASE):
        raise RepositoryError(
            f"remote hosts are not supported yet (got {repo}): "
            "give the path of a local Oxen repository, or bundled"
        )
    if "://" in repo:
        raise RepositoryError(f"no path of a local Oxen repository, nor bundled (got {repo})")
    return LocalRepository(from_root(repo), create=create)


@contextmanager
def named(key: str) -> Iterator[None]:
    """Put the key of params.yaml that is to blame before a RepositoryError's message."""
    try:
        yield
    except RepositoryError as error:
        raise RepositoryError(f"{key}: {error}") from None
