"""Documents to blocks of token ids: streamed, encoded by threads, written in order."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from pipeline.data.documents import Keys, index_of, keys_of, path_of
from pipeline.data.encoding import Encoder, Ids, Ints
from pipeline.data.packed import Meta
from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.errors import DataError
from pipeline.files import whole
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


@dataclass
class Seen:
    """What packing counts in one split."""

    num_tokens: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    keys: list[Keys] = field(default_factory=list)


def pack(
    folder: Path,
    documents: Mapping[str, Iterable[str]],
    tokenizer: TextTokenizer,
    *,
    mode: Mode,
    length: int,
    num_workers: int | None = None,
    labels: Mapping[str, list[str]] | None = None,
    label_rows: Mapping[str, list[list[int]]] | None = None,
) -> Meta:
    """Write the documents of each split to `folder` as blocks of `length` tokens.

    With `pad` each block is one document: its tokens, eos, then pad; an index of each split's
    documents (`data.documents`) stands beside its blocks. With `concat` the documents,
    an eos after each, make one stream that is cut into blocks; the tail that fills none is dropped.

    Args:
        documents: texts of the splits "train" and "test"; each is read once, as it is needed.
        num_workers: threads that encode, one a core unless given; the bytes do not depend on it.
        labels: what the values of each label are called, by column; with `pad` alone.
        label_rows: of each split, the labels of its documents as numbers, there as they come.
    Returns:
        What meta.json holds.
    Raises:
        DataError: a document does not fit a block, or a split fills none. Nothing is written then.
    """
    num_workers = num_workers or num_cores()
    labels = dict(labels or {})
    packer = Packer(tokenizer, mode, length, label_rows if labels else None)
    width = len(labels) + length
    seen: dict[str, Seen] = {}
    with ExitStack() as files:
        # Left last, so that meta.json appears when the blocks are there.
        partial_meta = files.enter_context(whole(folder / "meta.json"))
        for split, texts in documents.items():
            partial = files.enter_context(whole(folder / f"{split}.bin"))
            with partial.open("wb") as file:
                seen[split] = packer.write(file, split, texts, num_workers)
                num_blocks = seen[split].num_tokens // width
                file.truncate(num_blocks * width * packer.dtype.itemsize)
            if not num_blocks:
                raise DataError(_no_block(split, seen[split], length))
            if mode == "pad":
                index = files.enter_context(whole(path_of(folder, split)))
                index.write_bytes(index_of(seen[split].keys))
        meta = _described(tokenizer, packer.dtype.name, seen, mode, length, labels)
        meta.write(folder, partial_meta)
    return meta


def _described(
    tokenizer: TextTokenizer,
    dtype: str,
    seen: Mapping[str, Seen],
    mode: Mode,
    length: int,
    labels: dict[str, list[str]],
) -> Meta:
    lengths, width = seen["train"].lengths, len(labels) + length
    return Meta(
        dtype=dtype,
        length=length,
        mode=mode,
        vocab_size=tokenizer.size,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id,
        unk_id=tokenizer.unk_id,
        num_blocks={split: counts.num_tokens // width for split, counts in seen.items()},
        num_dropped={split: counts.num_tokens % width for split, counts in seen.items()},
        text_lengths=[lengths[n] for n in range(length)] if mode == "pad" else None,
        num_unknown={split: counts.unknown.total() for split, counts in seen.items()},
        unknown={split: dict(sorted(counts.unknown.items())) for split, counts in seen.items()},
        tokenizer_sha256=tokenizer.sha256,
        labels=labels,
    )


class Packer:
    """Turns batches of documents to tokens in the form of the file."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        mode: Mode,
        length: int,
        label_rows: Mapping[str, list[list[int]]] | None = None,
    ) -> None:
        self.dtype = np.dtype("<u2" if tokenizer.size <= 65535 else "<u4")
        self._tokenizer, self._encoder = tokenizer, Encoder(tokenizer)
        self._mode, self._length = mode, length
        self._label_rows = label_rows

    def write(self, file: BinaryIO, split: str, texts: Iterable[str], num_workers: int) -> Seen:
        """Write the tokens of `texts` in order, encoded by `num_workers` threads."""
        seen = Seen()
        parts = ((text, True) for text in texts)
        if self._mode != "pad":
            parts = (part for text in texts for part in self._encoder.parts(text))
        pieces = in_order(lambda batch: self.piece(split, batch), batches(parts), num_workers)
        # Only long work is worth a bar.
        with progress(desc=f"pack {split}", unit="B", delay=2) as bar:
            for piece in pieces:
                # numpy's own tofile hides that a disk is full.
                file.write(piece.tokens.tobytes())
                seen.num_tokens += piece.tokens.size
                seen.lengths.update(piece.lengths.tolist() if self._mode == "pad" else ())
                seen.unknown.update(piece.unknown)
                seen.keys.append(piece.keys)
                bar.update(piece.num_bytes)
        return seen

    def piece(self, split: str, batch: Batch) -> Piece:
        """The tokens of a batch.

        Raises:
            DataError: a document does not fit a block.
        """
        ids, lengths = self._encoder.encode(batch.texts)
        if self._mode == "pad":
            tokens = self._padded(split, batch, ids, lengths)
        elif self._mode == "stream":
            self._check_known(split, batch, ids)
            tokens = ids.astype(self.dtype)
        else:
            ends = np.cumsum(lengths)[batch.ends]
            tokens = np.insert(ids.astype(self.dtype), ends, self._tokenizer.start_id)
        return Piece(
            tokens=tokens,
            lengths=lengths,
            unknown=self._unknown(batch, ids, lengths),
            num_bytes=sum(len(text.encode()) for text in batch.texts),
            keys=keys_of(batch.texts if self._mode == "pad" else ()),
        )

    def _padded(
        self, split: str, batch: Batch, ids: Ids, lengths: Ints
    ) -> np.ndarray[Any, np.dtype[Any]]:
        """Blocks [n, L], a document each; with labels rows [n, K + L]."""
        most = self._length - 1
        if lengths.max() > most:
            row = int(np.argmax(lengths > most))
            raise DataError(
                f"{split} split: document {batch.first + row} ({_short(batch.texts[row])}) has "
                f"{lengths[row]} tokens, and a block holds at most {most} and their eos: "
                f"raise pack.length (got {self._length}), or set pack.mode to concat"
            )
        blocks = np.full((len(lengths), self._length), self._tokenizer.pad_id, self.dtype)
        blocks[np.arange(self._length) < lengths[:, None]] = ids
        blocks[np.arange(len(lengths)), lengths] = self._tokenizer.eos_id
        if self._label_rows is None:
            return blocks
        here = self._label_rows[split][batch.first : batch.first + len(lengths)]
        return np.concatenate([np.array(here, self.dtype), blocks], axis=1)

    def _check_known(self, split: str, batch: Batch, ids: Ids) -> None:
        """Refuse characters without an id, of which the encoder makes the tokenizer's size."""
        if (ids == self._tokenizer.size).any():
            unknown = Counter(self._tokenizer.unknown("".join(batch.texts)))
            names = ", ".join(f"{name!r} {num:,} times" for name, num in unknown.most_common(10))
            raise DataError(
                f"{split} split: no other holds {names}, and pack.mode stream has no <unk>: leave "
                "them out of the text, or set pack.mode to concat"
            )

    def _unknown(self, batch: Batch, ids: Ids, lengths: Ints) -> Counter[str]:
        unknown: Counter[str] = Counter()
        if self._tokenizer.unk_id is not None:
            places = np.flatnonzero(ids == self._tokenizer.unk_id)
            for row in np.unique(np.searchsorted(np.cumsum(lengths), places, side="right")):
                unknown.update(self._tokenizer.unknown(batch.texts[row]))
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


def _no_block(split: str, seen: Seen, length: int) -> str:
    if not seen.num_tokens:
        return f"the {split} split has no document"
    return (
        f"the {split} split has {seen.num_tokens} tokens, which do not fill one block: "
        f"lower pack.length (got {length})"
    )


def _short(text: str) -> str:
    return repr(text) if len(text) <= 24 else repr(text[:23])[:-1] + "…'"
