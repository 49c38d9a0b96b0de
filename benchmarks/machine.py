"""What the machine can do, measured in the run that is judged by it."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

SIZE = 1024
REPEATS = 20


@dataclass(frozen=True)
class Machine:
    """Rates of this machine.

    Attributes:
        flops: operations a second of float32 matrix products, 1,024 by 1,024, all threads.
        bytes: read and written a second while a large array is copied.
    """

    flops: float
    bytes: float

    def floor(self, flops: float, moved: float) -> tuple[float, float]:
        """Seconds that so much arithmetic, and so many bytes moved, take at least."""
        return flops / self.flops, moved / self.bytes


def median_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median time of `work`, after two runs that are not counted."""
    seconds = []
    for run in range(-2, repeats):
        started = time.perf_counter()
        work()
        if run >= 0:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure_machine() -> Machine:
    """Both rates, in under two seconds."""
    a, b, out = (torch.rand(SIZE, SIZE) for _ in range(3))
    product = median_seconds(lambda: torch.mm(a, b, out=out))
    source, target = (torch.ones(2**25) for _ in range(2))
    copy = median_seconds(lambda: target.copy_(source))
    return Machine(2 * SIZE**3 / product, 2 * source.nbytes / copy)
