"""The baby names that ship with the project, as a local Oxen repository seeded from them once."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import RepositoryError
from pipeline.files import folder_revision, sha256, store
from pipeline.oxen.local.process import run
from pipeline.oxen.local.repository import LocalRepository
from pipeline.oxen.repository import Entry

SHIPPED = Path(__file__).parents[1] / "data" / "baby_names"


def shipped_revision(folder: Path = SHIPPED) -> str:
    """SHA-256 over the lines "<SHA-256 of file>  <name>" of the shipped files.

    An Oxen commit id holds a time, so it differs between clones; this does not.
    """
    return folder_revision(folder, "*.parquet")


class BundledRepository:
    """Implements Repository for reading; its one revision is `shipped_revision()`."""

    def __init__(self, folder: Path = SHIPPED) -> None:
        self._shipped = folder
        self._path = store() / "oxen" / "baby_names"

    def __str__(self) -> str:
        return "bundled"

    def resolve(self, revision: str) -> str:
        """See Repository."""
        right = shipped_revision(self._shipped)
        if revision != right:
            raise RepositoryError(
                f"the bundled names have one revision, the SHA-256 of their files: {right} "
                f"(got {revision})"
            )
        return right

    def entries(self, commit: str) -> list[Entry]:
        """See Repository."""
        repository, commit = self._seeded(commit)
        return repository.entries(commit)

    def fetch(self, commit: str, files: Mapping[str, str], folder: Path) -> None:
        """See Repository."""
        repository, commit = self._seeded(commit)
        repository.fetch(commit, files, folder)
        for path in files.values():
            if sha256(folder / path) != sha256(self._shipped / path):
                raise RepositoryError(
                    f"{path} of {self._path} is not the shipped one: remove that folder"
                )

    def read(self, path: str) -> str | None:
        """See Repository."""
        repository, _ = self._seeded(shipped_revision(self._shipped))
        return repository.read(path)

    def commit(self, files: Mapping[str, Path], message: str) -> str | None:
        """Raises RepositoryError: the names can only be read."""
        raise RepositoryError("the bundled names can only be read")

    def _seeded(self, revision: str) -> tuple[LocalRepository, str]:
        """The repository and its commit of the shipped files, both made at the first call."""
        commit = run(
            "seed",
            str(self._path),
            files={path.name: str(path) for path in sorted(self._shipped.glob("*.parquet"))},
            message=f"Baby names, revision {self.resolve(revision)}",
        )
        return LocalRepository(self._path), commit
