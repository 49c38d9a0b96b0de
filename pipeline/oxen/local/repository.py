"""A local Oxen repository, named by its path, read from copies: see `snapshot`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import oxen

from pipeline.errors import RepositoryError
from pipeline.files import store, whole
from pipeline.oxen.folders import is_whole, oxen_hash, scratch_folder
from pipeline.oxen.local.bindings import oxen_errors
from pipeline.oxen.local.committing import run
from pipeline.oxen.local.snapshot import Snapshot, copy_databases, log_of
from pipeline.oxen.locks import locked
from pipeline.oxen.repository import Entry, named


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
        with oxen_errors(str(self)), scratch_folder() as at, scratch_folder() as scratch:
            with locked(self._path):
                snapshot = Snapshot(self._path, revision, at)
                copy_databases(self._path, scratch)
            if snapshot.exists():
                return revision
            copy = oxen.Repo(str(scratch))
            branches = {branch.name: str(branch.commit_id) for branch in copy.branches()}
            if revision in branches:
                return branches[revision]
            log = copy.log()
        heads = ", ".join(f"{name} at {commit}" for name, commit in branches.items()) or "none"
        newest = [f"  {commit.id}  {commit.message}" for commit in log[:5]]
        raise RepositoryError(
            f"{self} has no commit {revision} (full commit ids are understood, short ones are "
            f"not); branches: {heads}; newest commits:{'' if newest else ' none'}",
            *newest,
        )

    def entries(self, commit: str) -> list[Entry]:
        """See Repository; `hash` is Oxen's own, xxh3-128. Costs a copy of all the files."""
        place = store() / "oxen" / "entries"
        place.parent.mkdir(parents=True, exist_ok=True)
        with self._at(commit, beside=place) as snapshot:
            snapshot.restore(".")
            snapshot.check()
            return [
                Entry(
                    path.relative_to(snapshot.folder).as_posix(),
                    path.stat().st_size,
                    oxen_hash(path),
                    _rows(path),
                )
                for path in sorted(snapshot.files())
            ]

    def fetch(self, commit: str, files: Mapping[str, str], folder: Path) -> None:
        """See Repository."""
        with self._at(commit, beside=folder) as snapshot:
            for called, file in files.items():
                with named(called):
                    if not snapshot.has(file):
                        raise RepositoryError(
                            f"{self} has no file {file} at commit {commit}; "
                            f"it has {', '.join(snapshot.missing()) or 'nothing'}"
                        )
            for called, file in files.items():
                with named(called):
                    snapshot.restore(file)
                    if not (snapshot.folder / file).is_file():
                        raise RepositoryError(f"{file} of {self} is a folder: name a file")
            snapshot.check()
            for file in set(files.values()):
                restored = snapshot.folder / file
                if is_whole(folder / file, restored.stat().st_size, oxen_hash(restored)):
                    continue
                with whole(folder / file) as partial:
                    restored.replace(partial)

    def read(self, path: str) -> str | None:
        """See Repository; None also before the first commit has made the repository."""
        if not (self._path / ".oxen").is_dir():
            return None
        with oxen_errors(str(self)):
            log = log_of(self._path)
        if not log:
            return None
        with self._at(log[0].id) as snapshot:
            if not snapshot.has(path):
                return None
            snapshot.restore(path)
            snapshot.check()
            if not (snapshot.folder / path).is_file():
                raise RepositoryError(f"{path} of {self} is a folder")
            return (snapshot.folder / path).read_text(encoding="utf-8")

    def commit(self, files: Mapping[str, Path], message: str) -> str | None:
        """See Repository.

        What a killed publisher left staged under the same top folders is dropped first; anything
        else staged by someone is refused, lest it land in this commit.
        """
        sources = {path: str(source.resolve()) for path, source in files.items()}
        commit = run("commit", repository=str(self._path), files=sources, message=message)
        return None if commit is None else str(commit)

    @contextmanager
    def _at(self, commit: str, beside: Path | None = None) -> Iterator[Snapshot]:
        """The repository at a commit, restored to a temporary folder on the disk of `beside`."""
        with oxen_errors(str(self)), scratch_folder(beside) as scratch:
            with locked(self._path):
                snapshot = Snapshot(self._path, commit, scratch)
            if not snapshot.exists():
                raise RepositoryError(f"{self} has no commit {commit}")
            yield snapshot


def _rows(path: Path) -> int | None:
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    if path.suffix != ".parquet":
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return None
