"""Where an unfinished training run lives: outside DVC's outs, which DVC deletes and checks out.

The folder's name is a fingerprint of all that decides the result, so that a run resumes only what
it would have computed itself. A lock keeps two trainers of one fingerprint apart; the operating
system releases it when its holder dies, however it dies.
"""

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock, Timeout

from pipeline.errors import BusyError, CheckpointError
from pipeline.files import starters, store, whole
from pipeline.scale.world import ALONE, World


class TrainingState:
    """The last checkpoint of one unfinished run."""

    def __init__(self, folder: Path, started_by: list[psutil.Process] | None = None) -> None:
        """`started_by`: the `starters` of this process; as they are now if None."""
        self.folder = folder
        self.path = folder / "state.pt"
        self._started_by = starters() if started_by is None else started_by

    def save(self, state: dict[str, Any]) -> None:
        """Replace the last checkpoint; a kill at any moment leaves the old or the new one whole."""
        with whole(self.path) as partial, partial.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                # torch hides why a write failed, a full disk among others.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last checkpoint, or None.

        Raises:
            CheckpointError: the file cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self.path} cannot be read: remove {self.folder} to start again ({error})"
            ) from error
        return state

    def finish(self) -> None:
        """Remove the folder: the outs hold all there is.

        Not if what started it has died. A killed DVC will never record these outs: its next run
        deletes them, and then finds the finished state here instead of training from the start.
        """
        if starters() == self._started_by:
            shutil.rmtree(self.folder)


@contextmanager
def training_state(
    kind: str,
    identity: dict[str, Any],
    started_by: list[psutil.Process] | None = None,
    world: World = ALONE,
) -> Iterator[TrainingState]:
    """Hold the state of the run that `identity` (plain values) defines; see TrainingState.

    Of ranks the first holds it, and its identity counts.

    Raises:
        BusyError: another process trains it now.
    """
    if not world.is_first:
        yield TrainingState(Path(world.gather(None)[0]), started_by)
        return
    text = json.dumps(identity, sort_keys=True)
    name = f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder = store() / "train" / name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        for partial in folder.glob(".*.partial"):
            partial.unlink()
        world.gather(str(folder))
        yield TrainingState(folder, started_by)


def finish_training(folder: Path, started_by: list[psutil.Process]) -> None:
    """Remove a state that others have trained to the end; see `TrainingState.finish`."""
    with suppress(BusyError), _locked(folder):
        TrainingState(folder, started_by).finish()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BusyError(
            f"another process is training this already ({folder.name}): wait for it, or stop it "
            "first"
        ) from None
    try:
        yield
    finally:
        if not folder.exists():
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def hash_code(*rooms: str) -> str:
    """SHA-256 over the Python files of rooms of the library, by their paths in it."""
    library = Path(__file__).parents[1]
    return hash_files(library / room for room in rooms)


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and bytes of files, of folders' Python files for folders."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.name}\0".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
