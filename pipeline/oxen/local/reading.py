"""Reading a local Oxen repository, all of it from copies: see `pipeline.oxen.local.snapshot`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import oxen

from pipeline.errors import DataError, RepositoryError
from pipeline.files import store, whole
from pipeline.oxen.folders import count_rows, is_whole, oxen_hash, scratch_folder
from pipeline.oxen.local.snapshot import Snapshot, copy_databases
from pipeline.oxen.locks import locked
from pipeline.oxen.repository import Entry, named


def resolve(repository: Path, revision: str) -> str:
    """The commit that a branch or a full commit id names."""
    with scratch_folder() as at, scratch_folder() as scratch:
        with locked(repository):
            snapshot = Snapshot(repository, revision, at)
            copy_databases(repository, scratch)
        if snapshot.exists():
            return revision
        copy = oxen.Repo(str(scratch))
        branches = {branch.name: str(branch.commit_id) for branch in copy.branches()}
        if revision in branches:
            return branches[revision]
        log = copy.log()
    heads = ", ".join(f"{name} at {commit}" for name, commit in branches.items()) or "none"
    newest = "".join(f"\n  {commit.id}  {commit.message}" for commit in log[:5]) or " none"
    raise RepositoryError(
        f"{repository} has no commit {revision} (full commit ids are understood, short ones are "
        f"not); branches: {heads}; newest commits:{newest}"
    )


def entries(repository: Path, commit: str) -> list[Entry]:
    """Every file of a commit, sorted by path; it costs a copy of them all."""
    place = store() / "oxen" / "entries"
    place.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(beside=place) as scratch:
        snapshot = _at(repository, commit, scratch)
        snapshot.restore(".")
        snapshot.check()
        return [
            Entry(
                path.relative_to(scratch).as_posix(),
                path.stat().st_size,
                oxen_hash(path),
                _rows(path),
            )
            for path in sorted(snapshot.files())
        ]


def _rows(path: Path) -> int | None:
    try:
        return count_rows(path)
    except DataError:
        return None


def fetch(repository: Path, commit: str, files: Mapping[str, str], folder: Path) -> None:
    """Write `files` (what a message calls one -> its path) of a commit into `folder`."""
    with scratch_folder(beside=folder) as scratch:
        snapshot = _at(repository, commit, scratch)
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
                if not (scratch / file).is_file():
                    raise RepositoryError(f"{file} of {repository} is a folder: name a file")
        snapshot.check()
        for file in set(files.values()):
            if is_whole(folder / file, (scratch / file).stat().st_size, oxen_hash(scratch / file)):
                continue
            with whole(folder / file) as partial:
                (scratch / file).replace(partial)


def read(repository: Path, file: str) -> str | None:
    """Text of a file at the head of the current branch, None when it is not there."""
    log = log_of(repository)
    if not log:
        return None
    with scratch_folder() as scratch:
        snapshot = _at(repository, log[0].id, scratch)
        if not snapshot.has(file):
            return None
        snapshot.restore(file)
        snapshot.check()
        if not (scratch / file).is_file():
            raise RepositoryError(f"{file} of {repository} is a folder")
        return (scratch / file).read_text(encoding="utf-8")


def log_of(repository: Path) -> list[Any]:
    """Commits of the current branch, newest first."""
    with scratch_folder() as scratch:
        with locked(repository):
            copy_databases(repository, scratch)
        return list(oxen.Repo(str(scratch)).log())


def _at(repository: Path, commit: str, folder: Path) -> Snapshot:
    with locked(repository):
        snapshot = Snapshot(repository, commit, folder)
    if not snapshot.exists():
        raise RepositoryError(f"{repository} has no commit {commit}")
    return snapshot
