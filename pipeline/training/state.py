"""The last checkpoint of an unfinished training, kept as `pipeline.scale.unfinished` has it."""

import pickle
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.errors import BusyError, CheckpointError
from pipeline.files import whole
from pipeline.scale.unfinished import Unfinished, held, unfinished_folder
from pipeline.scale.world import ALONE, World
from pipeline.training.rows import Rows


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
        if not self._world.is_first:
            return
        sizes = [rows.write() for rows in (self.losses, self.snapshots)]
        state = state | {"sizes": sizes}
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

    def _write(self, state: dict[str, Any]) -> None:
        with whole(self.path) as partial, partial.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                # torch hides why a write failed, a full disk among others.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last checkpoint, or None; what was logged since then is cut.

        Raises:
            CheckpointError: a file cannot be read, or lacks what was logged before.
        """
        state = self._read(device) if self.path.exists() else None
        sizes = [0, 0] if state is None else state.pop("sizes")
        if self._world.is_first:
            for rows, size in zip((self.losses, self.snapshots), sizes, strict=True):
                rows.cut(size)
        return state

    def _read(self, device: torch.device) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
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
) -> Iterator[TrainingState]:
    """Hold the state of the run that `identity` (plain values) defines; see TrainingState.

    Of ranks the first holds it, and its identity counts.

    Raises:
        BusyError: another process trains it now.
    """
    if not world.is_first:
        yield TrainingState(Path(world.gather(None)[0]), started_by, world)
        return
    folder = unfinished_folder("train", kind, identity)
    with held(folder, "training"):
        world.gather(str(folder))
        state = TrainingState(folder, started_by, world)
        try:
            yield state
        finally:
            # The lock is held for as long as something is written.
            state.settle()


def finish_training(folder: Path, started_by: list[psutil.Process]) -> None:
    """Remove a state that others have trained to the end; see `TrainingState.finish`."""
    with suppress(BusyError), held(folder, "training"):
        TrainingState(folder, started_by).finish()
