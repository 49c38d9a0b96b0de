"""Blocks of token ids [N, L], one flat file a split, read as memory maps."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.data.tokenizer import Mode
from pipeline.errors import DataError


@dataclass(frozen=True)
class Meta:
    """meta.json: what the blocks are.

    Attributes:
        mode: `pad`, one document a block; `concat`, windows of running text.
        vocab_size: the tokenizer's, the mask not counted.
        num_dropped: tokens at the end of each split that fill no block.
        text_lengths: training documents of 0, 1, … tokens, eos not counted; None with `concat`.
        num_unknown, unknown: characters by split that the tokenizer does not know.
    """

    dtype: str
    length: int
    mode: Mode
    vocab_size: int
    pad_id: int
    eos_id: int
    unk_id: int | None
    num_blocks: dict[str, int]
    num_dropped: dict[str, int]
    text_lengths: list[int] | None
    num_unknown: dict[str, int]
    unknown: dict[str, dict[str, int]]
    tokenizer_sha256: str


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

    def some_held_out(self, num: int) -> np.ndarray[Any, np.dtype[Any]]:
        """At most `num` held-out blocks, evenly spread: neighbours may be of one kind."""
        return self.test[:: max(1, len(self.test) // num)][:num]


def _map_blocks(folder: Path, split: str, meta: Meta) -> np.ndarray[Any, np.dtype[Any]]:
    path, dtype = folder / f"{split}.bin", np.dtype(meta.dtype).newbyteorder("<")
    shape = (meta.num_blocks[split], meta.length)
    expected = shape[0] * shape[1] * dtype.itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, not {expected}")
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)


def check_comparable(num_held_out: int, num_samples: int) -> None:
    """Samples are compared with as many held-out blocks.

    Raises:
        DataError: there are fewer.
    """
    if num_held_out < num_samples:
        raise DataError(
            f"the held-out split has {num_held_out} blocks, fewer than sample.num "
            f"(got {num_samples}): lower it, or real text cannot be compared"
        )
