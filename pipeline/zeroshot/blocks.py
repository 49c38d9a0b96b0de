"""Documents of token ids as the blocks that a protocol scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.zeroshot.protocols import Protocol

Ints = npt.NDArray[np.int32]
GROUP = 1000
"""Rows that the papers' code cuts at a time, dropping the rest of each."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of equal length, and perhaps one that is shorter.

    Attributes:
        whole: token ids [N, L].
        tail: token ids [T] of the last block, T < L; none where T is 0.
        num_dropped: tokens of the stream that stand in no block.
        num_of: how many blocks there were before some were chosen.
    """

    whole: Ints
    tail: Ints
    num_dropped: int
    num_of: int

    def __len__(self) -> int:
        return len(self.whole) + bool(len(self.tail))

    def by_length(self) -> list[Ints]:
        """The blocks [n, l], those of equal length together, in order."""
        return [ids for ids in (self.whole, self.tail[None]) if ids.size]

    def chosen(self, most: int | None) -> "Blocks":
        """At most so many of the blocks, evenly spaced."""
        if most is None or most >= len(self):
            return self
        places = np.arange(most) * len(self) // most
        tail = self.tail if places[-1] == len(self.whole) else self.tail[:0]
        return replace(self, whole=self.whole[places[places < len(self.whole)]], tail=tail)


def cut(
    documents: Sequence[npt.ArrayLike],
    protocol: Protocol,
    *,
    length: int,
    eos_id: int,
    workers: int,
) -> Blocks:
    """The blocks of documents, each a list of ids, in order.

    Args:
        length: tokens a block, its frame included.
        eos_id: what closes rows and frames blocks.
        workers: processes of the papers' code, each with a run of neighbouring rows.
    Raises:
        ValueError: a block of this length holds nothing.
    """
    protocol.check_length(length)
    width = length - 2 * protocol.framed
    wholes, num_dropped, tail = [np.empty((0, length), np.int32)], 0, np.empty(0, np.int32)
    for first, last in _groups(len(documents), protocol, workers):
        stream = _stream(documents[first:last], eos_id if protocol.eos_after_rows else None)
        num = len(stream) // width
        whole = stream[: num * width].reshape(num, width)
        if protocol.framed:
            whole = np.pad(whole, ((0, 0), (1, 1)), constant_values=eos_id)
        wholes.append(whole)
        if protocol.keeps_all:
            tail = stream[num * width :]
        else:
            num_dropped += len(stream) - num * width
    blocks = np.concatenate(wholes)
    return Blocks(blocks, tail, num_dropped, len(blocks) + bool(len(tail)))


def _groups(num: int, protocol: Protocol, workers: int) -> Iterator[tuple[int, int]]:
    """First row and the one after the last, of the rows that are cut together."""
    if protocol.keeps_all:
        yield 0, num
        return
    workers = max(1, min(workers, num))
    each, more = divmod(num, workers)
    first = 0
    for worker in range(workers):
        last = first + each + (worker < more)
        yield from ((start, min(start + GROUP, last)) for start in range(first, last, GROUP))
        first = last


def _stream(documents: Sequence[npt.ArrayLike], eos_id: int | None) -> Ints:
    """Documents one after another, each closed by eos unless that is None."""
    end: list[Any] = [] if eos_id is None else [[eos_id]]
    parts = [np.asarray(part, np.int32) for each in documents for part in (each, *end)]
    return np.concatenate([np.empty(0, np.int32), *parts])
