"""What each step uses: its seed, its blocks and its learning rate, from the step's number alone."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.scale.seeds import step_seed

Decay = Literal["linear", "none"]


def piece_seeds(seed: int, step: int, num: int) -> list[int]:
    """Seeds of what the losses of a step's pieces draw, each whatever the others drew."""
    others = (step_seed(seed, "dropout", step * num + piece) for piece in range(1, num))
    return [step_seed(seed, "step", step), *others]


def learning_rate(
    step: int, *, peak: float, warmup_steps: int, num_steps: int, decay: Decay
) -> float:
    """Linear from 0 over the warm-up, then linear to 0 at the end, or none; step counts from 0."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if decay == "none":
        return peak
    return peak * (num_steps - step) / max(num_steps - warmup_steps, 1)


class Windows:
    """Blocks at random, as often as it comes: for those that overlap, one a place of a text."""

    def __init__(self, num_blocks: int, seed: int) -> None:
        self._num_blocks = num_blocks
        self._seed = seed

    def batch(self, step: int, batch_size: int) -> npt.NDArray[np.int64]:
        """Indices [batch_size] of a step's blocks."""
        generator = np.random.default_rng(step_seed(self._seed, "windows", step))
        return generator.integers(self._num_blocks, size=batch_size)


class Order:
    """The order of the data: every block once an epoch, shuffled anew each epoch."""

    def __init__(self, num_blocks: int, seed: int) -> None:
        self._num_blocks = num_blocks
        self._seed = seed
        self._epoch = -1
        self._permutation: npt.NDArray[np.int32 | np.int64] = np.empty(0, np.int32)

    def batch(self, step: int, batch_size: int) -> npt.NDArray[np.int64]:
        """Indices [batch_size] of a step's blocks; a batch may reach into the next epoch."""
        places = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs, places = np.divmod(places, self._num_blocks)
        parts = [
            self._epoch_order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)
        ]
        return np.concatenate(parts).astype(np.int64)

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int32 | np.int64]:
        if epoch != self._epoch:
            seed = step_seed(self._seed, "order", epoch)
            # Half the memory of `permutation`, and its order.
            kind = np.int32 if self._num_blocks < 2**31 else np.int64
            self._permutation = np.arange(self._num_blocks, dtype=kind)
            np.random.default_rng(seed).shuffle(self._permutation)
            self._epoch = epoch
        return self._permutation
