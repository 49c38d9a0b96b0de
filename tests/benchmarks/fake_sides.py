"""Sides that a child process of a test runs."""

import itertools
import time
from typing import Any


def holding(mb: int) -> Any:
    """A step that takes so much memory for a moment."""

    def run() -> dict[str, Any]:
        held = bytearray(mb * 10**6)
        held[::4096] = b"x" * len(held[::4096])
        return {"held": len(held)}

    return run


def saying(seconds: float) -> Any:
    """A step that says itself how long it took."""
    print("a library prints")
    return lambda: {"seconds": seconds, "at": time.time()}


def counting() -> Any:
    """A step whose seconds are its number."""
    numbers = itertools.count(1)
    return lambda: {"seconds": next(numbers)}


def failing() -> Any:
    """A side that cannot be built."""
    raise ValueError("no such thing")
