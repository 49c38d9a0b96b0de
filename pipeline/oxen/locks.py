"""One process at a time in a repository's folder."""

import hashlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.errors import BusyError
from pipeline.files import store

PATIENCE = 600.0
"""Seconds that another process of ours may hold a repository before this one gives up."""
STRANGERS_PATIENCE = 30.0
"""The same for processes that do not know our lock, such as a user's own `oxen`."""


@contextmanager
def locked(repository: Path | str) -> Iterator[None]:
    """Hold the lock of a repository's folder, or of a name that processes here agree on.

    It lies in our store, as the folder may be foreign.

    Raises:
        BusyError: another process has held it for too long.
    """
    name = str(repository.resolve() if isinstance(repository, Path) else repository)
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    lock = FileLock(store() / "oxen" / "locks" / f"{key}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=5)
    except Timeout:
        print(f"waiting for another process that uses {repository}", file=sys.stderr, flush=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise BusyError(f"another process has used {repository} for {PATIENCE:.0f} s") from None
    try:
        yield
    finally:
        lock.release()


def wait_for_strangers(repo: Any, path: Path) -> None:
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
