"""What the machine can do, measured in the run that is judged by it."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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

    def during(self, flops: float | None) -> "Machine":
        """With the rate of matrix products that was measured between a side's runs, if it was."""
        return self if flops is None else replace(self, flops=flops)

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


def product_seconds(repeats: int) -> list[float]:
    """Seconds of each of so many matrix products that a rate is measured by."""
    a, b, out = (torch.rand(SIZE, SIZE) for _ in range(3))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - started)
    return seconds


def product_flops(seconds: Sequence[float]) -> float:
    """Operations a second of products that took so long, by their median."""
    return 2 * SIZE**3 / statistics.median(seconds)


def measure_machine() -> Machine:
    """Both rates, in under two seconds."""
    product_seconds(2)
    source, target = (torch.ones(2**25) for _ in range(2))
    copy = median_seconds(lambda: target.copy_(source))
    return Machine(product_flops(product_seconds(REPEATS)), 2 * source.nbytes / copy)
