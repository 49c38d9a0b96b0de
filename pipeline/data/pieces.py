"""Documents to tokens: batches of them, each encoded by itself, in order."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from pipeline.data.documents import Keys, keys_of
from pipeline.data.encoding import Encoder, Ids, Ints
from pipeline.data.tokenizer import Mode, short
from pipeline.errors import DataError
from pipeline.progress import progress

# What one thread takes at once: the first of these that is reached.
DOCUMENTS_AT_ONCE = 1024
CHARACTERS_AT_ONCE = 2**20

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Batch:
    """Neighbouring documents of a split, or parts of them.

    Attributes:
        first: place of the first one.
        ends: whether a document ends with it, for each of the texts.
    """

    first: int
    texts: list[str]
    ends: list[bool]


@dataclass(frozen=True)
class Piece:
    """What becomes of a batch.

    Attributes:
        tokens: what goes to the file, in its type.
        lengths: tokens of each document, eos not counted [N].
        unknown: characters that the tokenizer does not know.
        num_bytes: of the texts in UTF-8.
        keys: hashes of the documents, where each is a block; else none.
    """

    tokens: np.ndarray[Any, np.dtype[Any]]
    lengths: Ints
    unknown: Counter[str]
    num_bytes: int
    keys: Keys


class Packer:
    """Turns batches of documents to tokens in the form of the file."""

    def __init__(
        self,
        encoder: Encoder,
        mode: Mode,
        length: int,
        label_rows: Mapping[str, list[list[int]]] | None = None,
    ) -> None:
        self.mode, self.length, self.tokenizer = mode, length, encoder.tokenizer
        self.dtype = np.dtype("<u2" if self.tokenizer.size <= 65535 else "<u4")
        self._encoder, self._label_rows = encoder, label_rows

    def pieces(
        self, documents: Mapping[str, Iterable[str]], num_workers: int
    ) -> Iterator[tuple[str, Piece]]:
        """What becomes of each split's documents, in order, encoded by `num_workers` threads."""
        for split, texts in documents.items():
            found = in_order(partial(self.piece, split), self.batches(texts), num_workers)
            # Only long work is worth a bar.
            with progress(desc=f"pack {split}", unit="B", delay=2) as bar:
                for piece in found:
                    yield split, piece
                    bar.update(piece.num_bytes)

    def batches(self, texts: Iterable[str]) -> Iterator[Batch]:
        """Neighbouring documents, cut where that changes no token, until they are many or long."""
        parts = ((text, True) for text in texts)
        if self.mode != "pad":
            parts = (part for text in texts for part in self._encoder.parts(text))
        return batches(parts)

    def piece(self, split: str, batch: Batch) -> Piece:
        """The tokens of a batch.

        Raises:
            DataError: a document does not fit a block.
        """
        ids, lengths = self._encoder.encode(batch.texts)
        if self.mode == "pad":
            tokens = self._padded(split, batch, ids, lengths)
        elif self.mode == "stream":
            self._check_known(split, batch, ids)
            tokens = ids.astype(self.dtype)
        else:
            ends = np.cumsum(lengths)[batch.ends]
            tokens = np.insert(ids.astype(self.dtype), ends, self.tokenizer.start_id)
        return Piece(
            tokens=tokens,
            lengths=lengths,
            unknown=self._unknown(batch, ids, lengths),
            num_bytes=sum(len(text.encode()) for text in batch.texts),
            keys=keys_of(batch.texts if self.mode == "pad" else ()),
        )

    def _padded(
        self, split: str, batch: Batch, ids: Ids, lengths: Ints
    ) -> np.ndarray[Any, np.dtype[Any]]:
        """Blocks [n, L], a document each; with labels rows [n, K + L]."""
        most = self.length - 1
        if lengths.max() > most:
            row = int(np.argmax(lengths > most))
            raise DataError(
                f"{split} split: document {batch.first + row} ({short(batch.texts[row], 24)}) has "
                f"{lengths[row]} tokens, and a block holds at most {most} and their eos: "
                f"raise pack.length (got {self.length}), or set pack.mode to concat"
            )
        blocks = np.full((len(lengths), self.length), self.tokenizer.pad_id, self.dtype)
        blocks[np.arange(self.length) < lengths[:, None]] = ids
        blocks[np.arange(len(lengths)), lengths] = self.tokenizer.eos_id
        if self._label_rows is None:
            return blocks
        here = self._label_rows[split][batch.first : batch.first + len(lengths)]
        return np.concatenate([np.array(here, self.dtype), blocks], axis=1)

    def _check_known(self, split: str, batch: Batch, ids: Ids) -> None:
        """Refuse characters without an id, of which the encoder makes the tokenizer's size."""
        if (ids == self.tokenizer.size).any():
            unknown = Counter(self.tokenizer.unknown("".join(batch.texts)))
            names = ", ".join(f"{name!r} {num:,} times" for name, num in unknown.most_common(10))
            raise DataError(
                f"{split} split: no other holds {names}, and pack.mode stream has no <unk>: leave "
                "them out of the text, or set pack.mode to concat"
            )

    def _unknown(self, batch: Batch, ids: Ids, lengths: Ints) -> Counter[str]:
        unknown: Counter[str] = Counter()
        if self.tokenizer.unk_id is not None:
            places = np.flatnonzero(ids == self.tokenizer.unk_id)
            for row in np.unique(np.searchsorted(np.cumsum(lengths), places, side="right")):
                unknown.update(self.tokenizer.unknown(batch.texts[row]))
        return unknown


def batches(parts: Iterable[tuple[str, bool]]) -> Iterator[Batch]:
    """Neighbouring texts, with whether a document ends there, until they are many or long."""
    batch, num_characters = Batch(0, [], []), 0
    for text, ends in parts:
        batch.texts.append(text)
        batch.ends.append(ends)
        num_characters += len(text)
        if len(batch.texts) == DOCUMENTS_AT_ONCE or num_characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, num_characters = Batch(batch.first + len(batch.texts), [], []), 0
    if batch.texts:
        yield batch


def in_order(function: Callable[[T], R], items: Iterable[T], num_workers: int) -> Iterator[R]:
    """`function` of each of `items`, in their order, by threads that run a little ahead."""
    with ThreadPoolExecutor(num_workers) as pool:
        under_way: deque[Future[R]] = deque()
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) > 2 * num_workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
