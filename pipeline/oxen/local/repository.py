"""A local Oxen repository, named by its path; what is done with it is done in processes."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import RepositoryError
from pipeline.oxen.local.process import run
from pipeline.oxen.repository import Entry


class LocalRepository:
    """Implements Repository. Reading never touches the repository's folder; a commit does."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Check what is at `path`; with `create` that may be nothing, or an empty folder.

        Raises:
            RepositoryError: there is no repository, or something else is there.
        """
        self._path = path
        if (path / ".oxen").is_dir():
            return
        if path.exists() and not (path.is_dir() and create and not any(path.iterdir())):
            raise RepositoryError(f"{path} is no Oxen repository (it has no .oxen folder)")
        if not create:
            raise RepositoryError(f"no Oxen repository at {path}")

    def __str__(self) -> str:
        return str(self._path)

    def resolve(self, revision: str) -> str:
        """See Repository."""
        return str(run("resolve", str(self), revision=revision))

    def entries(self, commit: str) -> list[Entry]:
        """See Repository; `hash` is Oxen's own, xxh3-128. Costs a copy of all the files."""
        return [Entry(*values) for values in run("entries", str(self), commit=commit)]

    def fetch(self, commit: str, files: Mapping[str, str], folder: Path) -> None:
        """See Repository."""
        run("fetch", str(self), commit=commit, files=dict(files), folder=str(folder.absolute()))

    def read(self, path: str) -> str | None:
        """See Repository; None also before the first commit has made the repository."""
        if not (self._path / ".oxen").is_dir():
            return None
        text: str | None = run("read", str(self), file=path)
        return text

    def commit(self, files: Mapping[str, Path], message: str) -> str | None:
        """See Repository.

        What a killed publisher left staged under the same top folders is dropped first; anything
        else staged by someone is refused, lest it land in this commit.
        """
        sources = {path: str(source.resolve()) for path, source in files.items()}
        commit: str | None = run("commit", str(self), files=sources, message=message)
        return commit
