"""Timing and peak memory: each side lives in a process of its own, and the sides take turns."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.machine import REPEATS, product_flops, product_seconds
from pipeline.errors import PipelineError

Facts = dict[str, Any]
Step = Callable[[], Facts]
"""Work that is timed; the facts it returns may hold `seconds`, which then replace the clock's."""


@dataclass(frozen=True)
class Side:
    """What a process builds once and repeats.

    Attributes:
        prepare: `module:function`; called with the settings it returns a Step.
        settings: plain values.
        lead: runs before each that is timed: what the other sides did in between, to caches and to
            memory, then costs it nothing.
    """

    prepare: str
    settings: dict[str, Any] = field(default_factory=dict)
    lead: int = 0


@dataclass(frozen=True)
class Measured:
    """What a side's runs gave.

    Attributes:
        seconds: of each run.
        peak_mb: most memory above what was held before, in 10^6 bytes, in the first run.
        facts: of the last run.
        flops: rate of matrix products measured between the runs, as the machine's speed drifts.
    """

    seconds: list[float]
    peak_mb: float
    facts: Facts
    flops: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Worker:
    """A child process that runs a side's step when it is told to."""

    def __init__(self, side: Side, errors: Any) -> None:
        self._side = side
        self._errors = errors
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", side.prepare, json.dumps(side.settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def ready(self) -> None:
        """Wait until it is built."""
        self._answer()

    def run(self) -> Facts:
        """One run: its seconds, its peak memory and its facts."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> Facts:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
            raise PipelineError(f"benchmark {self._side.prepare} failed: {said[-2000:]}")
        answer: Facts = json.loads(line)
        return answer


@contextmanager
def worker(side: Side) -> Iterator[Worker]:
    """A child process for `side`, ended on leaving."""
    with tempfile.TemporaryFile() as errors:
        child = Worker(side, errors)
        try:
            yield child
        finally:
            child.close()


def interleaved(
    sides: Mapping[str, Side],
    runs: int,
    *,
    warm_up: bool = True,
    on_run: Callable[[], object] = lambda: None,
) -> dict[str, Measured]:
    """Run the sides in turn, `runs` times each.

    Args:
        sides: by name, in the order of their turns.
        runs: how many runs of each are timed.
        warm_up: whether one more comes first, for memory alone.
        on_run: called after each run.
    Raises:
        PipelineError: a side fails; the text ends with what it wrote.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    facts: dict[str, Facts] = {}
    products: list[float] = []
    with ExitStack() as stack:
        workers = {name: stack.enter_context(worker(side)) for name, side in sides.items()}
        for child in workers.values():
            child.ready()
        for run in range(-1 if warm_up else 0, runs):
            # Twenty in all at least, the first of each time not counted.
            products += product_seconds(2 + REPEATS // runs)[1:]
            for name, child in workers.items():
                for _ in range(sides[name].lead):
                    child.run()
                answer = child.run()
                peaks.setdefault(name, answer["peak_mb"])
                facts[name] = answer["facts"]
                if run >= 0:
                    seconds[name].append(answer["seconds"])
                on_run()
    flops = product_flops(products)
    return {name: Measured(seconds[name], peaks[name], facts[name], flops) for name in sides}
