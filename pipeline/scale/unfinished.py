"""Where unfinished work of a stage lives: outside DVC's outs, which DVC deletes and checks out.

The folder's name is a fingerprint of all that decides the result, so that work is taken up only by
what would have computed the same itself. A lock keeps two of one fingerprint apart; the operating
system releases it when its holder dies, however it dies.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
import torch
from filelock import FileLock, Timeout

from pipeline.errors import BusyError
from pipeline.files import from_root, starters, store
from pipeline.scale.launch import is_followed
from pipeline.scale.shares import end_share, share_of
from pipeline.scale.units import Units

Room = Literal["train", "units"]
NAME = re.compile("[a-z_]+-[0-9a-f]{16}")
"""Of a folder: what is unfinished, and its fingerprint."""
OF_UNITS = (
    *("baseline", "data", "evaluation", "kernels", "methods", "network", "zeroshot"),
    *("scale/seeds.py", "scale/units.py"),
)
"""Code that decides results of units."""


class Unfinished:
    """The folder of one piece of unfinished work."""

    def __init__(self, folder: Path, started_by: list[psutil.Process] | None = None) -> None:
        """`started_by`: the `starters` of this process; as they are now if None."""
        self.folder = folder
        self._started_by = starters() if started_by is None else started_by

    def computed(self) -> None:
        """Say that all of it is in the folder, where a rank's part ends."""
        end_share()

    def finish(self) -> None:
        """Remove the folder: the outs hold all there is.

        Not if what started it has died. A killed DVC will never record these outs: its next run
        deletes them, and then finds the finished work here instead of starting anew.
        """
        if starters() == self._started_by:
            shutil.rmtree(self.folder)


def unfinished_folder(room: Room, kind: str, identity: dict[str, Any], within: str | None) -> Path:
    """Where, in a `room` of `resources.store`, what `identity` (plain values) defines is kept."""
    text = json.dumps(identity, sort_keys=True)
    return _place(within) / room / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def all_unfinished(within: str | None) -> list[Path]:
    """Folders of unfinished work, beside each of which is a lock: either may be alone.

    In the project's own store too, as `resources.store` may have been set since. Whatever else lies
    there is somebody's own: a scratch disk may well have a folder called train.
    """
    rooms = (place / room for place in (store(), _place(within)) for room in get_args(Room))
    found = (
        path.with_name(path.name.removesuffix(".lock")) for each in rooms for path in each.glob("*")
    )
    return sorted({path for path in found if NAME.fullmatch(path.name)})


def _place(within: str | None) -> Path:
    return store() if within is None else from_root(within)


@contextmanager
def held(folder: Path, doing: str) -> Iterator[None]:
    """Make a folder and hold its lock; one in which nothing is left is removed.

    Raises:
        BusyError: another process is `doing` it now.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BusyError(
            f"another process is {doing} this already ({folder.name}): wait for it, or stop it "
            "first"
        ) from None
    try:
        folder.mkdir(exist_ok=True)
        for partial in folder.glob(".*.partial"):
            partial.unlink()
        yield
    finally:
        with suppress(OSError):  # It holds something, or is gone already.
            folder.rmdir()
        if not folder.exists():
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def hash_code(*rooms: str) -> str:
    """SHA-256 over the names and bytes of the Python files of rooms of the library, in order."""
    library, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in (library / room for room in rooms):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.name}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def unfinished_units(
    stage: str,
    identity: dict[str, Any],
    started_by: list[psutil.Process] | None = None,
    start: Callable[[], object] | None = None,
    within: str | None = None,
) -> Iterator[tuple[Units, Unfinished]]:
    """Hold what is kept of a stage's units, of all that `identity` (plain values) and code decide.

    Args:
        within: as `resources.store`.
        start: has ranks compute all units that are not kept; see `shares.starting`.
    Raises:
        BusyError: another process computes them now.
    """
    by = {
        "code": hash_code(*OF_UNITS),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
    folder = unfinished_folder("units", stage, identity | by, within)
    if is_followed():
        yield share_of(folder), Unfinished(folder, started_by)
        return
    with held(folder, "computing"):
        if start is not None:
            start()
        yield Units(folder), Unfinished(folder, started_by)
