"""What a training step works on: made on the CPU, for a GPU while it is at the step before."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.training.schedule import Order, step_seed

if TYPE_CHECKING:
    from pipeline.methods.protocol import Objective

Drawn = tuple[Tensor, ...]


class Ahead:
    """Batches with all randomness of their steps, which is the same for every device.

    A GPU is never waited for: copies to it start from memory that it reads by itself.
    """

    def __init__(
        self, objective: "Objective", batch_size: int, seed: int, device: torch.device
    ) -> None:
        self._objective, self._device = objective, device
        self._batch_size, self._seed = batch_size, seed
        self._thread = ThreadPoolExecutor(1) if device.type == "cuda" else None
        self._next: tuple[int, Future[Drawn]] | None = None

    def take(self, step: int, blocks: npt.NDArray[Any], order: Order) -> Drawn:
        """What the objective draws for `step`, each [B, ...], on the device."""
        if self._thread is None:
            return self._draw(step, blocks, order)
        if self._next is not None and self._next[0] == step:
            drawn = self._next[1].result()
        else:
            drawn = self._draw(step, blocks, order)
        self._next = step + 1, self._thread.submit(self._draw, step + 1, blocks, order)
        return tuple(each.to(self._device, non_blocking=True) for each in drawn)

    def _draw(self, step: int, blocks: npt.NDArray[Any], order: Order) -> Drawn:
        # In the order drawn: a method may give neighbouring rows neighbouring times.
        indices = order.batch(step, self._batch_size)
        x0 = torch.from_numpy(blocks[indices].astype(np.int64))
        generator = torch.Generator().manual_seed(step_seed(self._seed, "step", step))
        drawn = self._objective.draw(x0, generator)
        return drawn if self._thread is None else tuple(each.pin_memory() for each in drawn)
