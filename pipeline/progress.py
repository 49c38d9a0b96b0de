"""Progress of long work: a bar on a terminal, plain lines elsewhere, both with the time left."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm


class _Lines:
    """A stream that ends each of tqdm's redraws with a newline, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self._stream.write(text + "\n")

    def flush(self) -> None:
        self._stream.flush()


def progress(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    desc: str,
    unit: str,
    done: int = 0,
    delay: float = 0,
    hidden: bool = False,
) -> "tqdm[Any]":
    """A tqdm over `items`, or one to update by hand, on stderr; `done` of `total` come first.

    Bytes (unit "B") are shown as kB, MB and so on. Work of less than `delay` seconds shows nothing,
    nor does what is `hidden`.
    """
    on_terminal = sys.stderr.isatty()
    return tqdm(
        items,
        total=total,
        desc=desc,
        unit=unit,
        unit_scale=unit == "B",
        initial=done,
        delay=delay,
        disable=hidden,
        file=sys.stderr if on_terminal else _Lines(sys.stderr),
        mininterval=0.1 if on_terminal else 10,
        maxinterval=10 if on_terminal else 60,
        dynamic_ncols=on_terminal,
        smoothing=0.05,
        ascii=None if on_terminal else " #",
    )
