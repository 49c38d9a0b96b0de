"""A repository as it was at one commit, read from a copy of its databases.

Oxen cannot read a file of another commit without writing to the work tree, and opening a
repository writes to its databases. So the databases are copied, and the content, which Oxen
never changes once it is written, is linked.
"""

import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oxen

from pipeline.errors import BusyError, RepositoryError
from pipeline.files import locked, scratch_folder
from pipeline.oxen.folders import inside, oxen_hash

# Content; one folder a commit; what is staged or being merged, which is nothing of a commit.
_NOT_COPIED = ("versions", "history", "staged", "workspaces", "merge")
# Closing a copy's source would end the lock that this process may itself hold on it.
_LOCKS = ("LOCK", "lock.mdb")
_TRIES = 50


class Snapshot:
    """Files of one commit, restored one by one into an empty folder."""

    def __init__(self, repository: Path, commit: str, folder: Path) -> None:
        """Copy the databases of `repository`; nothing of it is read afterwards but content."""
        self._repository, self._commit, self.folder = repository, commit, folder
        copy_databases(repository, folder, commit)
        self._repo = oxen.Repo(str(folder))

    def exists(self) -> bool:
        """Whether the repository has this commit."""
        if not re.fullmatch("[0-9a-f]+", self._commit):
            return False
        return any(commit.id == self._commit for commit in self._repo.log())

    def has(self, file: str) -> bool:
        """Whether the commit has a file, or a folder, of this name that is not restored yet.

        Raises:
            RepositoryError: `file` is no path inside a repository.
        """
        path = inside(file)
        # Status names what lies in a folder only where that folder exists.
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        return path in self.missing()

    def missing(self) -> list[str]:
        """What the commit has and `folder` does not: files, and folders missing altogether."""
        return sorted(self._repo.status().unstaged_removed_files())

    def restore(self, file: str) -> None:
        """Write a file, or with `.` all of them, into the folder.

        Raises:
            RepositoryError: the repository does not hold its content.
        """
        try:
            # Oxen takes it for a pattern.
            self._repo.restore(glob.escape(file), source=self._commit)
        except ValueError as error:
            # A clone has by default the content of the newest commit only.
            if "version-store data missing" not in str(error):
                raise
            raise RepositoryError(
                f"{self._repository} knows {file} at commit {self._commit} but lacks its content: "
                "clone it with its whole history"
            ) from None

    def files(self) -> Iterator[Path]:
        """Restored files."""
        for path in self.folder.rglob("*"):
            if path.is_file() and ".oxen" not in path.relative_to(self.folder).parts[:1]:
                yield path

    def check(self) -> None:
        """Look up the restored files' hashes among the names of the repository's content.

        Oxen's own comparison holds a whole file in memory, and restores damaged content silently.

        Raises:
            RepositoryError: a file's content is none that the repository has a name for.
        """
        contents = self._repository / ".oxen" / "versions" / "files"
        for path in self.files():
            name = oxen_hash(path)
            if not (contents / name[:2] / name[2:]).is_dir():
                raise RepositoryError(
                    f"{self._repository} holds damaged content of "
                    f"{path.relative_to(self.folder)} at commit {self._commit}"
                )


def log_of(repository: Path) -> list[Any]:
    """Commits of the current branch, newest first."""
    with scratch_folder() as scratch:
        with locked(repository):
            copy_databases(repository, scratch)
        return list(oxen.Repo(str(scratch)).log())


def copy_databases(repository: Path, folder: Path, commit: str | None = None) -> None:
    """Copy `.oxen` of `repository` into `folder`, all but content; with `commit`, checked out.

    Raises:
        RepositoryError: there is no repository.
        BusyError: the databases would not stand still.
    """
    source, target = repository / ".oxen", folder / ".oxen"
    if not source.is_dir():
        raise RepositoryError(f"no Oxen repository at {repository}")
    for _ in range(_TRIES):
        try:
            if odd := next(_odd(source), None):
                raise RepositoryError(
                    f"{odd} is neither file nor folder: no link, pipe or device is read of a "
                    "repository"
                )
            before = _state(source)
            for path, (is_file, *_) in before.items():
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                if is_file:
                    shutil.copyfile(path, copy)
            if _state(source) == before:
                break
        except FileNotFoundError:
            pass  # It was there a moment ago.
        shutil.rmtree(target, ignore_errors=True)
        time.sleep(0.1)
    else:
        raise BusyError(f"{repository} is being written to: try again")
    (target / "versions").symlink_to(source / "versions")
    if commit is None:
        return
    if (source / "history" / commit).is_dir():
        shutil.copytree(source / "history" / commit, target / "history" / commit)
    # A branch may be named as a commit is (a commit onto a checked-out commit makes one).
    shutil.rmtree(target / "refs", ignore_errors=True)
    (target / "HEAD").write_text(commit, encoding="utf-8")


def _odd(folder: Path) -> Iterator[Path]:
    """What below it leads elsewhere, or may never end; Oxen itself makes none."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _odd(Path(entry))
        elif not entry.is_file(follow_symlinks=False):
            yield Path(entry)


def _state(source: Path) -> dict[Path, tuple[bool, int, int]]:
    """Whether a file, size and time of what is copied: unchanged after a copy, that is true."""
    state = {}
    for top in source.iterdir():
        if top.name in _NOT_COPIED:
            continue
        for path in (top, *top.rglob("*")):
            if path.name not in _LOCKS:
                stat = path.stat()
                state[path] = (path.is_file(), stat.st_size, stat.st_mtime_ns)
    return state
