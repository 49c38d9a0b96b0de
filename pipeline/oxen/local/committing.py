"""Committing to a local Oxen repository: one operation, in a process of its own.

`run` starts this file as a module, writes the operation to its standard input as JSON and reads the
answer from its standard output. Oxen keeps a repository's databases open, and shut to others, until
its process ends.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import oxen

from pipeline import errors
from pipeline.errors import PipelineError, RepositoryError
from pipeline.files import whole, with_library
from pipeline.oxen.folders import in_place_of, scratch_folder
from pipeline.oxen.local.bindings import configure, oxen_errors
from pipeline.oxen.local.snapshot import Snapshot, log_of
from pipeline.oxen.locks import locked, wait_for_strangers


def run(operation: str, **arguments: Any) -> Any:
    """What `seed` or `commit` returns for `arguments`, all plain JSON.

    Raises:
        PipelineError: whatever kind the operation raised.
        OSError: it ran out of disk space or may not write.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.oxen.local.committing"],
        input=json.dumps({"operation": operation, "arguments": arguments}),
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=with_library(),
        check=False,
    )
    if done.returncode:
        raise RepositoryError(
            f"Oxen's process ended with status {done.returncode} during {operation}"
        )
    answer = json.loads(done.stdout)
    if "errno" in answer:
        raise OSError(answer["errno"], answer["message"], answer["filename"])
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer["result"]


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
    """
    path = Path(repository)
    with locked(path):
        if not (path / ".oxen").is_dir():
            with in_place_of(path) as partial:
                return _commit(oxen.Repo(str(partial)).init(), partial, files, message)
        repo = oxen.Repo(str(path))
        wait_for_strangers(repo, path)
        branch = repo.current_branch
        # Oxen answers with a branch named as the commit that is checked out.
        if branch is not None and any(commit.id == branch.name for commit in repo.log()):
            raise RepositoryError(f"{path} has a commit checked out: check out a branch first")
        _unstage(repo, path, {PurePosixPath(file).parts[0] for file in files})
        return _commit(repo, path, files, message)


def _commit(repo: oxen.Repo, path: Path, files: dict[str, str], message: str) -> str | None:
    """Commit under a held lock, None when nothing changed."""
    for name, source in files.items():
        target = path / name
        for left in target.parent.glob(f".{target.name}.*.partial"):
            left.unlink()
        with whole(target) as partial:
            shutil.copyfile(source, partial)
        repo.add(str(target))
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


def _answer(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The result, or the error as its kind and message."""
    operations = {"seed": seed, "commit": commit}
    try:
        with oxen_errors(arguments["repository"]):
            configure()
            return {"result": operations[operation](**arguments)}
    except PipelineError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except OSError as error:
        return {"errno": error.errno, "message": error.strerror, "filename": error.filename}


def main() -> None:
    """Answer one request; what Oxen itself prints goes nowhere."""
    # Python's own handler would wait for Oxen's call to return.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    answers, notes = (os.fdopen(os.dup(fd), "w", encoding="utf-8") for fd in (1, 2))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.stderr = notes
    request = json.load(sys.stdin)
    json.dump(_answer(request["operation"], request["arguments"]), answers)
    answers.flush()


if __name__ == "__main__":
    main()
