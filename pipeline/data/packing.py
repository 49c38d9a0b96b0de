"""Documents as blocks of tokens [N, L] in one flat file a split, read as a memory map."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import DataError
from pipeline.files import whole

DOCUMENTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Meta:
    """meta.json: what the blocks are.

    Attributes:
        vocab_size: the tokenizer's, the mask not counted.
        text_lengths: training documents of 0, 1, … tokens, eos not counted.
        num_unknown, unknown: characters by split that the tokenizer does not know.
    """

    dtype: str
    length: int
    mode: str
    vocab_size: int
    pad_id: int
    eos_id: int
    unk_id: int | None
    num_blocks: dict[str, int]
    text_lengths: list[int]
    num_unknown: dict[str, int]
    unknown: dict[str, dict[str, int]]
    tokenizer_sha256: str


@dataclass(frozen=True)
class Seen:
    """What packing counts in one split."""

    lengths: Counter[int] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Packed:
    """Both splits, token ids [N, L] as read-only memory maps."""

    train: np.ndarray[Any, np.dtype[Any]]
    test: np.ndarray[Any, np.dtype[Any]]
    meta: Meta

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map the files that `pack` wrote.

        Raises:
            DataError: a file is missing, damaged or of another size than meta.json says.
        """
        try:
            meta = Meta(**json.loads((folder / "meta.json").read_text(encoding="utf-8")))
            train, test = (_map_blocks(folder, split, meta) for split in ("train", "test"))
        except FileNotFoundError as error:
            raise DataError(f"{error.filename} is missing: no packed data in {folder}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"the packed data in {folder} are damaged: {error}") from error
        return cls(train, test, meta)


def pack(
    folder: Path,
    documents: Mapping[str, Iterable[str]],
    tokenizer: TextTokenizer,
    *,
    mode: Literal["pad"],
    length: int,
) -> Meta:
    """Write a split's documents to `folder`, one a block: its tokens, eos, then pad.

    Args:
        documents: texts of the splits "train" and "test"; each is read once.
        length: tokens a block, eos included.
    Returns:
        What meta.json holds.
    Raises:
        DataError: a document does not fit a block, or a split has none. Nothing is written then.
    """
    dtype = np.dtype("<u2" if tokenizer.size <= 65535 else "<u4")
    num_blocks: dict[str, int] = {}
    seen = {split: Seen() for split in documents}
    with ExitStack() as files:
        # Left last, so that meta.json appears when the blocks are there.
        partial_meta = files.enter_context(whole(folder / "meta.json"))
        for split, texts in documents.items():
            partial = files.enter_context(whole(folder / f"{split}.bin"))
            with partial.open("wb") as file:
                num_blocks[split] = 0
                for blocks in _pad_blocks(split, texts, tokenizer, length, seen[split]):
                    # numpy's own tofile hides that a disk is full.
                    file.write(blocks.astype(dtype).tobytes())
                    num_blocks[split] += len(blocks)
            if not num_blocks[split]:
                raise DataError(f"the {split} split has no document")
        meta = Meta(
            dtype=dtype.name,
            length=length,
            mode=mode,
            vocab_size=tokenizer.size,
            pad_id=tokenizer.pad_id,
            eos_id=tokenizer.eos_id,
            unk_id=tokenizer.unk_id,
            num_blocks=num_blocks,
            text_lengths=[seen["train"].lengths[n] for n in range(length)],
            num_unknown={split: counts.unknown.total() for split, counts in seen.items()},
            unknown={split: dict(sorted(counts.unknown.items())) for split, counts in seen.items()},
            tokenizer_sha256=tokenizer.sha256,
        )
        partial_meta.write_text(json.dumps(asdict(meta), indent=2) + "\n", encoding="utf-8")
        # An earlier meta.json must not describe the new blocks for a moment.
        (folder / "meta.json").unlink(missing_ok=True)
    return meta


def _pad_blocks(
    split: str,
    texts: Iterable[str],
    tokenizer: TextTokenizer,
    length: int,
    seen: Seen,
) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    """Blocks [n, L] of some documents at a time; adds to what is `seen`."""
    remaining, first = iter(texts), 0
    while batch := list(islice(remaining, DOCUMENTS_AT_ONCE)):
        blocks = np.full((len(batch), length), tokenizer.pad_id)
        for row, ids in enumerate(tokenizer.encode_batch(batch)):
            if len(ids) > length - 1:
                raise DataError(
                    f"{split} split: document {first + row} ({_short(batch[row])}) has {len(ids)} "
                    f"tokens, and a block holds at most {length - 1} and their eos: "
                    f"raise pack.length (got {length})"
                )
            blocks[row, : len(ids)] = ids
            blocks[row, len(ids)] = tokenizer.eos_id
            seen.lengths[len(ids)] += 1
            if tokenizer.unk_id in ids:
                seen.unknown.update(tokenizer.unknown(batch[row]))
        yield blocks
        first += len(batch)


def _map_blocks(folder: Path, split: str, meta: Meta) -> np.ndarray[Any, np.dtype[Any]]:
    path, dtype = folder / f"{split}.bin", np.dtype(meta.dtype).newbyteorder("<")
    shape = (meta.num_blocks[split], meta.length)
    expected = shape[0] * shape[1] * dtype.itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, not {expected}")
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)


def _short(text: str) -> str:
    return repr(text) if len(text) <= 24 else repr(text[:23])[:-1] + "…'"
