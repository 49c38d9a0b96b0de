"""What a training step works on: made on the CPU, for a GPU while it is at the step before."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.scale.seeds import step_seed
from pipeline.scale.world import World
from pipeline.training.gradient import pieces_of
from pipeline.training.schedule import Order, Windows
from pipeline.training.settings import Settings

if TYPE_CHECKING:
    from pipeline.methods.protocol import Objective

Piece = tuple[Tensor, ...]
Chosen = Order | Windows


class Ahead:
    """Batches with all randomness of their steps, which is the same for every device.

    A GPU is never waited for: copies to it start from memory that it reads by itself.
    """

    def __init__(
        self, objective: "Objective", device: torch.device, settings: Settings, world: World
    ) -> None:
        self._objective, self._device = objective, device
        self._settings, self._world = settings, world
        self._thread = ThreadPoolExecutor(1) if device.type == "cuda" else None
        self._next: tuple[int, Future[list[Piece]]] | None = None

    def take(self, step: int, blocks: npt.NDArray[Any], order: Chosen) -> list[Piece]:
        """What the objective's loss takes in `step`, this rank's pieces, on the device."""
        if self._thread is None:
            return self._draw(step, blocks, order)
        if self._next is not None and self._next[0] == step:
            pieces = self._next[1].result()
        else:
            pieces = self._pinned(step, blocks, order)
        self._next = step + 1, self._thread.submit(self._pinned, step + 1, blocks, order)
        return [
            tuple(each.to(self._device, non_blocking=True) for each in piece) for piece in pieces
        ]

    def _draw(self, step: int, blocks: npt.NDArray[Any], order: Chosen) -> list[Piece]:
        # In the order drawn: a method may give neighbouring rows neighbouring times.
        # Of the whole batch: what a row gets does not depend on how many ranks there are.
        settings = self._settings
        indices = order.batch(step, settings.batch_size)
        x0 = torch.from_numpy(blocks[indices].astype(np.int64))
        generator = torch.Generator().manual_seed(step_seed(settings.seed, "step", step))
        pieces = pieces_of(self._objective.draw(x0, generator), settings.accumulate)
        return self._world.part(pieces)

    def _pinned(self, step: int, blocks: npt.NDArray[Any], order: Chosen) -> list[Piece]:
        pieces = self._draw(step, blocks, order)
        located = (self._objective.located(*piece) for piece in pieces)
        return [tuple(each.pin_memory() for each in piece) for piece in located]
