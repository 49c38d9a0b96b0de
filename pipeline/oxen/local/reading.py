"""Reading a local Oxen repository, from copies: see `snapshot`. Its folder is never touched."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import oxen

from pipeline.errors import RepositoryError
from pipeline.files import locked, scratch_folder, store, whole
from pipeline.oxen.folders import is_whole, oxen_hash
from pipeline.oxen.local.snapshot import Snapshot, copy_databases, log_of
from pipeline.oxen.repository import named, no_such_revision


def resolve(repository: str, revision: str) -> str:
    """See Repository."""
    path = Path(repository)
    with scratch_folder() as at, scratch_folder() as scratch:
        with locked(path):
            snapshot = Snapshot(path, revision, at)
            copy_databases(path, scratch)
        if snapshot.exists():
            return revision
        copy = oxen.Repo(str(scratch))
        branches = {branch.name: str(branch.commit_id) for branch in copy.branches()}
        if revision in branches:
            return branches[revision]
        newest = [(str(commit.id), commit.message) for commit in copy.log()[:5]]
    raise no_such_revision(repository, revision, branches, newest)


def entries(repository: str, commit: str) -> list[tuple[str, int, str, int | None]]:
    """The values of each Entry; `hash` is Oxen's own, xxh3-128. Costs a copy of all the files."""
    place = store() / "oxen" / "entries"
    place.parent.mkdir(parents=True, exist_ok=True)
    with _at(repository, commit, beside=place) as snapshot:
        snapshot.restore(".")
        snapshot.check()
        return [
            (
                path.relative_to(snapshot.folder).as_posix(),
                path.stat().st_size,
                oxen_hash(path),
                _rows(path),
            )
            for path in sorted(snapshot.files())
        ]


def fetch(repository: str, commit: str, files: dict[str, str], folder: str) -> None:
    """See Repository."""
    target = Path(folder)
    with _at(repository, commit, beside=target) as snapshot:
        for called, file in files.items():
            with named(called):
                if not snapshot.has(file):
                    raise RepositoryError(
                        f"{repository} has no file {file} at commit {commit}; "
                        f"it has {', '.join(snapshot.missing()) or 'nothing'}"
                    )
        for called, file in files.items():
            with named(called):
                snapshot.restore(file)
                if not (snapshot.folder / file).is_file():
                    raise RepositoryError(f"{file} of {repository} is a folder: name a file")
        snapshot.check()
        for file in set(files.values()):
            restored = snapshot.folder / file
            if is_whole(target / file, restored.stat().st_size, oxen_hash(restored)):
                continue
            with whole(target / file) as partial:
                restored.replace(partial)


def read(repository: str, file: str) -> str | None:
    """See Repository; None also before the first commit has made the repository."""
    path = Path(repository)
    log = log_of(path) if (path / ".oxen").is_dir() else []
    if not log:
        return None
    with _at(repository, log[0].id) as snapshot:
        if not snapshot.has(file):
            return None
        snapshot.restore(file)
        snapshot.check()
        if not (snapshot.folder / file).is_file():
            raise RepositoryError(f"{file} of {repository} is a folder")
        return (snapshot.folder / file).read_text(encoding="utf-8")


OPERATIONS = (resolve, entries, fetch, read)


@contextmanager
def _at(repository: str, commit: str, beside: Path | None = None) -> Iterator[Snapshot]:
    """The repository at a commit, restored to a temporary folder on the disk of `beside`."""
    with scratch_folder(beside) as scratch:
        with locked(Path(repository)):
            snapshot = Snapshot(Path(repository), commit, scratch)
        if not snapshot.exists():
            raise RepositoryError(f"{repository} has no commit {commit}")
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
