"""The last checkpoint of an unfinished training, kept as `pipeline.scale.unfinished` has it."""

import pickle
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import gethostname
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.errors import BusyError, CheckpointError, PipelineError
from pipeline.files import whole
from pipeline.scale.unfinished import Unfinished, held, unfinished_folder
from pipeline.scale.world import ALONE, World
from pipeline.training.rows import Rows

PLACES = "a", "b"
"""Folders of tensors that ranks have parts of."""


class TrainingState(Unfinished):
    """The last checkpoint of one unfinished run, and all that the run logged, in files beside it.

    Attributes:
        losses: rows of step, train_loss (mean since the last row), eval_loss, lr; None for what
            a row does not have.
        snapshots: rows of step, loss, eval_loss, and what was seen of samples.
    """

    def __init__(
        self,
        folder: Path,
        started_by: list[psutil.Process] | None = None,
        world: World = ALONE,
    ) -> None:
        """Of ranks, all of which call the same methods, the first writes."""
        super().__init__(folder, started_by)
        self._world = world
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._parts: str | None = None
        self.losses = Rows(folder / "losses.jsonl")
        self.snapshots = Rows(folder / "snapshots.jsonl")

    @property
    def path(self) -> Path:
        """The file that holds it."""
        return self.folder / "state.pt"

    def save(self, state: dict[str, Any], *, beside: bool = False) -> None:
        """Replace the last checkpoint; a kill at any moment leaves the old or the new one whole.

        Args:
            beside: return once its tensors are copied to the CPU's memory: they are written while
                training goes on, and what goes wrong is raised by the next call, or by `settle`.
        """
        self.settle()
        if self._world.divides:
            self._save_parts(state, beside)
            return
        if not self._world.is_first:
            return
        state = state | {"sizes": self._write_rows()}
        if beside:
            copied = pytree.tree_map_only(Tensor, lambda each: each.to("cpu", copy=True), state)
            self._writing = self._thread.submit(self._write, copied)
        else:
            self._write(state)

    def settle(self) -> None:
        """Have the last checkpoint written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _save_parts(self, state: dict[str, Any], beside: bool) -> None:
        """Tensors go to one of two folders in turn, and then `path` says to which."""
        from pipeline.training import parts

        self._parts = PLACES[self._parts == PLACES[0]]
        folder = self.folder / self._parts
        plain = parts.without_tensors(state) | {"parts": self._parts}
        if self._world.is_first:
            shutil.rmtree(folder, ignore_errors=True)
            plain["sizes"] = self._write_rows()
        self._world.agree(False)  # Nobody writes to what the first still clears.
        written = parts.write(state, folder, self._world.beside, beside=beside)

        def point() -> None:
            parts.wait(written, folder)
            if self._world.is_first:
                self._write(plain)

        if beside:
            self._writing = self._thread.submit(point)
        else:
            point()

    def _write_rows(self) -> list[int]:
        return [rows.write() for rows in (self.losses, self.snapshots)]

    def _write(self, state: dict[str, Any]) -> None:
        """Replace `path`; then no other checkpoint is needed."""
        with whole(self.path) as partial, partial.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                # torch hides why a write failed, a full disk among others.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
        for place in PLACES:
            if place != state.get("parts"):
                shutil.rmtree(self.folder / place, ignore_errors=True)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last checkpoint, or None; what was logged since then is cut.

        It may lack tensors, or have them whole where ranks divide them: see `fitted`.

        Raises:
            CheckpointError: a file cannot be read, or lacks what was logged before.
        """
        state = self._read(device) if self.path.exists() else None
        sizes = [0, 0] if state is None else state.pop("sizes")
        if self._world.is_first:
            for rows, size in zip((self.losses, self.snapshots), sizes, strict=True):
                rows.cut(size)
        self._parts = None if state is None else state.get("parts")
        return state

    def fitted(
        self, saved: dict[str, Any], own: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """What `load` gave, with the tensors that this process is to hold.

        Args:
            own: makes a state of such tensors, of the shape of the one given.
        Raises:
            CheckpointError: a file cannot be read.
        """
        place = saved.pop("parts", None)
        if place is None and not self._world.divides:
            return saved
        from pipeline.training import parts

        if place is None:
            return parts.divided(saved, own(saved))
        return parts.read(saved, own(saved), self.folder / place)

    def _read(self, device: torch.device) -> dict[str, Any]:
        try:
            # Of a state that is to be divided a device has no room for the whole.
            where = torch.device("cpu") if self._world.divides else device
            state: dict[str, Any] = torch.load(
                self.path, map_location=where, weights_only=True, mmap=self._world.divides
            )
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self.path} cannot be read: remove {self.folder} to start again ({error})"
            ) from error
        return state


@contextmanager
def training_state(
    kind: str,
    identity: dict[str, Any],
    started_by: list[psutil.Process] | None = None,
    world: World = ALONE,
    within: str | None = None,
) -> Iterator[TrainingState]:
    """Hold the state of the run that `identity` (plain values) defines; see TrainingState.

    Of ranks the first holds it, and its identity counts.

    Args:
        within: as `resources.store`.
    Raises:
        BusyError: another process trains it now.
        PipelineError: a rank that is to write parts does not have its folder.
    """
    if not world.is_first:
        folder = Path(world.gather(None)[0])
        _check_seen(folder, world)
        state = TrainingState(folder, started_by, world)
        yield state
        state.settle()
        return
    folder = unfinished_folder("train", kind, identity, within)
    with held(folder, "training"):
        world.gather(str(folder))
        _check_seen(folder, world)
        state = TrainingState(folder, started_by, world)
        try:
            yield state
        finally:
            # The lock is held for as long as something is written.
            state.settle()


def _check_seen(folder: Path, world: World) -> None:
    if not world.divides:
        return
    without = [host for host in world.gather("" if folder.is_dir() else gethostname()) if host]
    if without:
        raise PipelineError(
            f"resources.strategy: fsdp has each rank write to {folder}, which {without[0]} does "
            "not have: name one that all machines share as resources.store, or use ddp"
        )


def finish_training(folder: Path, started_by: list[psutil.Process]) -> None:
    """Remove a state that others have trained to the end; see `TrainingState.finish`."""
    with suppress(BusyError), held(folder, "training"):
        TrainingState(folder, started_by).finish()
