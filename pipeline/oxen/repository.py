"""What everyone knows of a repository of versioned files."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import RepositoryError


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
    """Files at commits.

    Every method raises RepositoryError, or BusyError when another process holds the repository;
    ServerError, a kind of the first, when its server is away or refuses.
    """

    def resolve(self, revision: str) -> str:
        """The commit id that a branch or a full commit id names."""

    def entries(self, commit: str) -> list[Entry]:
        """Every file of a commit, sorted by path."""

    def fetch(self, commit: str, files: Mapping[str, str], folder: Path) -> None:
        """Write files of a commit into `folder`, whole and checked against their hashes.

        One that is there already, whole, is kept as it is; so a fetch that failed or was killed
        is taken up by the next one into the same folder.

        Args:
            files: what a message calls a file (its key in params.yaml) -> its path at the commit.
            folder: keeps each file's path.
        """

    def read(self, path: str) -> str | None:
        """One small text file at the head of the current branch; None when not there."""

    def commit(self, files: Mapping[str, Path], message: str) -> str | None:
        """Commit local files under the paths they are keyed by.

        Returns:
            the new commit's id, or None when the head already has all of them as they are.
        """


@contextmanager
def named(key: str) -> Iterator[None]:
    """Put the key of params.yaml that is to blame before a RepositoryError's message."""
    try:
        yield
    except RepositoryError as error:
        first, *others = error.args
        raise type(error)(f"{key}: {first}", *others) from None


def no_such_revision(
    where: str, revision: str, branches: Mapping[str, str], newest: Iterable[tuple[str, str]]
) -> RepositoryError:
    """The error that there is no such commit, to be raised; `newest` are ids and messages."""
    heads = ", ".join(f"{name} at {commit}" for name, commit in branches.items()) or "none"
    lines = [f"  {commit}  {message}" for commit, message in newest]
    return RepositoryError(
        f"{where} has no commit {revision} (full commit ids are understood, short ones are "
        f"not); branches: {heads}; newest commits:{'' if lines else ' none'}",
        *lines,
    )
