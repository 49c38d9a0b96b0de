"""Committing to a local Oxen repository."""

import glob
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import oxen

from pipeline.errors import BusyError, RepositoryError
from pipeline.files import copy_whole, locked, scratch_folder
from pipeline.oxen.folders import in_place_of
from pipeline.oxen.local.snapshot import Snapshot, log_of

STRANGERS_PATIENCE = 30.0
"""Seconds that a process which does not know our lock, as a user's own `oxen`, may hold it."""


def seed(repository: str, files: dict[str, str], message: str) -> str:
    """The id of the commit called `message`, made from `files` when there is none."""
    path = Path(repository)
    if (path / ".oxen").is_dir():
        for done in log_of(path):
            if done.message == message:
                return str(done.id)
    # None when another process has just done the same.
    return commit(repository, files, message) or str(log_of(path)[0].id)


def commit(repository: str, files: dict[str, str], message: str) -> str | None:
    """Commit local files under the paths they are keyed by; None when the head has them all.

    Where there is no repository, one appears together with its first commit.

    Raises:
        RepositoryError: a file's name is a pattern to Oxen, which would stage others or none.
    """
    path = Path(repository)
    if patterns := [name for name in files if glob.has_magic(name)]:
        raise RepositoryError(
            f"{path}: Oxen takes *, ? and [ in a file's name for a pattern: "
            f"rename {', '.join(patterns)}"
        )
    with locked(path):
        if not (path / ".oxen").is_dir():
            with in_place_of(path) as partial:
                return _commit(oxen.Repo(str(partial)).init(), partial, files, message)
        repo = oxen.Repo(str(path))
        _wait_for_strangers(repo, path)
        branch = repo.current_branch
        # Oxen answers with a branch named as the commit that is checked out.
        if branch is not None and any(commit.id == branch.name for commit in repo.log()):
            raise RepositoryError(f"{path} has a commit checked out: check out a branch first")
        _unstage(repo, path, {PurePosixPath(file).parts[0] for file in files})
        return _commit(repo, path, files, message)


OPERATIONS = (seed, commit)


def _wait_for_strangers(repo: oxen.Repo, path: Path) -> None:
    """Open Oxen's own database of branches, which shuts others out until this process ends.

    Raises:
        BusyError: a process that does not know our lock has it open.
    """
    deadline = time.monotonic() + STRANGERS_PATIENCE
    while True:
        try:
            repo.branches()
            return
        except ValueError as error:
            if "LOCK" not in str(error):
                raise
        if time.monotonic() > deadline:
            raise BusyError(f"another process has {path} open in Oxen: end it and try again")
        time.sleep(0.2)


def _commit(repo: oxen.Repo, path: Path, files: dict[str, str], message: str) -> str | None:
    """Commit under a held lock, None when nothing changed."""
    for name, source in files.items():
        copy_whole(Path(source), path / name)
        repo.add(str(path / name))
    staged = repo.status()
    changed = bool(staged.added_files() or staged.modified_files())
    commit = str(repo.commit(message).id) if changed else None
    if left_out := _left_out(path, commit or _head(repo), files):
        names = ", ".join(left_out)
        raise RepositoryError(f"{path}: Oxen left out {names}: does .oxenignore name it?")
    return commit


def _head(repo: oxen.Repo) -> str | None:
    return next((str(commit.id) for commit in repo.log()), None)


def _left_out(path: Path, head: str | None, files: Iterable[str]) -> list[str]:
    if head is None:
        return list(files)
    with scratch_folder() as scratch:
        snapshot = Snapshot(path, head, scratch)
        return [name for name in files if not snapshot.has(name)]


def _unstage(repo: oxen.Repo, path: Path, tops: set[str]) -> None:
    """Drop what a killed process of ours left staged below `tops`; refuse anybody else's."""
    status = repo.status()
    staged = [*status.added_files(), *status.modified_files(), *status.removed_files()]
    others = [file for file in staged if PurePosixPath(file).parts[0] not in tops]
    if others:
        raise RepositoryError(f"{path} has staged files: commit or unstage {', '.join(others)}")
    for file in staged:
        repo.restore(file, staged=True)
