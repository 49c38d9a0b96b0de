"""The device that is measured, and how: times, memory, kernels and waits of a step or a call."""

import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from benchmarks.plain import plain_model
from benchmarks.shapes import perturbed
from pipeline.methods.sedd.model import SEDD, SEDDConfig

Step = Callable[[], object]
TIMED = 10


class Day:
    """The device, the sizes, and where results go.

    Attributes:
        results: what was written so far, by section.
    """

    def __init__(self, device: torch.device, tiny: bool, out: Path) -> None:
        self.device, self.tiny = device, tiny
        self.on_gpu = device.type == "cuda"
        self.small, self.medium = ("tiny", "tiny") if tiny else ("small", "medium")
        self.batch, self.num_drawn = (4, 2) if tiny else (32, 8)
        self.num_steps = 16 if tiny else 1024
        self.results: list[dict[str, Any]] = []
        self._started = time.perf_counter()
        self._file = (out / "gpu_day.jsonl").open("a", encoding="utf-8")

    def write(self, section: str, **facts: Any) -> None:
        """Note a result."""
        self.results.append({"section": section, **facts})
        line = json.dumps({**self.results[-1], "at": round(self.seconds(), 1)})
        print(line, flush=True)
        self._file.write(line + "\n")
        self._file.flush()

    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._started

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def clear(self) -> None:
        """Give back what earlier work holds, and forget its peak."""
        torch.compiler.reset()
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def milliseconds(self, work: Step) -> float:
        """Median time of `work`."""
        times = []
        for _ in range(2 if self.tiny else TIMED):
            started = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - started)
        return 1e3 * statistics.median(times)

    def peak_gb(self) -> float | None:
        """Most memory held at a time since `clear`."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.on_gpu else None

    def model(self, config: SEDDConfig, plain: bool = False) -> SEDD:
        """A model with weights that are not zero anywhere."""
        torch.manual_seed(0)
        with torch.device(self.device):
            return perturbed(plain_model(config) if plain else SEDD(config))


def measure(
    day: Day, section: str, name: str, make: Callable[[], Step], tokens: int, flops: float
) -> None:
    """Time, memory, kernels and waits of a training step."""
    day.clear()
    started = time.perf_counter()
    step = make()
    step()
    day.wait()
    first = time.perf_counter() - started
    for _ in range(3):
        step()
    day.wait()
    taken = day.milliseconds(step)
    facts: dict[str, Any] = {"name": name, "ms": taken, "tokens_per_s": 1e3 * tokens / taken}
    facts |= {"tflops": flops / taken / 1e9, "first_s": first, "peak_gb": day.peak_gb()}
    if day.on_gpu:
        facts |= {"waits": waits_of(step), **kernels_of(day, step)}
    day.write(section, **facts)


def waits_of(step: Step) -> int:
    """How often a step waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in seen)


def kernels_of(day: Day, step: Step) -> dict[str, Any]:
    """Kernels of a step: how many, how long together, and the largest."""
    with profiler(activities=[ProfilerActivity.CUDA]) as found:
        step()
        day.wait()
    rows = [row for row in found.key_averages() if row.self_device_time_total]
    rows.sort(key=lambda row: -row.self_device_time_total)
    return {
        "kernels": sum(row.count for row in rows),
        "gpu_ms": sum(row.self_device_time_total for row in rows) / 1e3,
        "largest": [
            [row.key[:60], row.count, round(row.self_device_time_total / 1e3, 2)]
            for row in rows[:8]
        ],
    }


class Enough(Exception):
    """So many calls were timed."""


@contextmanager
def timed_calls(day: Day, model: SEDD) -> Iterator[list[float]]:
    """Times at which the network is called; its caller is ended after some."""
    hidden, seen = model.network.hidden, list[float]()
    most = 6 if day.tiny else 60

    def counted(*arguments: Any, **named: Any) -> Tensor:
        day.wait()
        seen.append(time.perf_counter())
        if len(seen) > most:
            raise Enough
        return hidden(*arguments, **named)

    model.network.hidden = counted  # type: ignore[method-assign]
    try:
        yield seen
    except Enough:
        pass
    finally:
        model.network.hidden = hidden  # type: ignore[method-assign]
