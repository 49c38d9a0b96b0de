"""The process of one side: builds it, then runs it each time a line comes in.

python -m benchmarks.child MODULE:FUNCTION SETTINGS
"""

import ctypes
import json
import os
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import TextIO

import psutil

from benchmarks.measure import Facts, Step
from pipeline.device import keep_freed_memory

POLL_SECONDS = 0.2


class Peak:
    """Most memory that this process, and those it starts, hold above what is held on entering."""

    def __enter__(self) -> "Peak":
        # What malloc keeps of earlier runs would hide what this one needs.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = psutil.Process().memory_info().rss
        self._children = 0
        self._left = threading.Event()
        self._watch = threading.Thread(target=self._poll, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._watch.join()
        [line] = [
            line
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            if line.startswith("VmHWM:")
        ]
        own = int(line.split()[1]) * 1024 - self._before
        self.mb = (max(own, 0) + self._children) / 1e6

    def _poll(self) -> None:
        while not self._left.wait(POLL_SECONDS):
            self._children = max(self._children, memory_of_children())


def memory_of_children() -> int:
    """Bytes that the processes started from here hold for themselves alone."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_full_info().uss
        except psutil.Error:  # it has just ended
            continue
    return total


def timed(step: Step) -> tuple[float, Facts]:
    """Seconds and facts of one run."""
    started = time.perf_counter()
    facts = step()
    seconds = time.perf_counter() - started
    return float(facts.get("seconds", seconds)), facts


def serve(step: Step, commands: TextIO, answers: TextIO) -> None:
    """Answer each line of `commands` with a run; memory is watched in the first alone."""
    peak_mb = None
    for _ in commands:
        if peak_mb is None:
            with Peak() as peak:
                seconds, facts = timed(step)
            peak_mb = peak.mb
        else:
            seconds, facts = timed(step)
        print(
            json.dumps({"seconds": seconds, "peak_mb": peak_mb, "facts": facts}),
            file=answers,
            flush=True,
        )


def main() -> None:
    # Libraries print as they like: answers go where standard output was, prints to the errors.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Both sides alike: what the product gains by it is no difference of formulations.
    keep_freed_memory()
    module, function = sys.argv[1].split(":")
    step: Step = getattr(import_module(module), function)(**json.loads(sys.argv[2]))
    print("{}", file=answers, flush=True)
    serve(step, sys.stdin, answers)


if __name__ == "__main__":
    main()
