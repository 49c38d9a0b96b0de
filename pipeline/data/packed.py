"""Blocks of token ids [N, L], one flat file a split, read as memory maps."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.data.tokenizer import Mode
from pipeline.errors import DataError
from pipeline.files import sha256, store

EVAL = "eval"
"""The split of a stream that training looks at, where there is one."""


@dataclass(frozen=True)
class Meta:
    """meta.json: what the blocks are.

    Attributes:
        mode: `pad`, one document a block; `concat`, windows of running text; `stream`, windows of
            one text without ends, those of the training split wherever they begin.
        vocab_size: the tokenizer's, the mask not counted.
        num_dropped: tokens at the end of each split that fill no block.
        text_lengths: training documents of 0, 1, … tokens, eos not counted; None with `concat`.
        num_unknown, unknown: characters by split that the tokenizer does not know.
        sha256: of each split's file, as `pack` wrote it.
        labels: what the values of each label are called, by column; not in a meta.json without any.
    """

    dtype: str
    length: int
    mode: Mode
    vocab_size: int
    pad_id: int | None
    eos_id: int | None
    unk_id: int | None
    num_blocks: dict[str, int]
    num_dropped: dict[str, int]
    text_lengths: list[int] | None
    num_unknown: dict[str, int]
    unknown: dict[str, dict[str, int]]
    tokenizer_sha256: str
    sha256: dict[str, str]
    labels: dict[str, list[str]] = field(default_factory=dict)

    def asdict(self) -> dict[str, Any]:
        """What meta.json holds."""
        return {key: value for key, value in asdict(self).items() if self.labels or key != "labels"}

    def write(self, folder: Path, partial: Path) -> None:
        """Write `partial`, which takes the place of the folder's meta.json once its blocks have."""
        partial.write_text(json.dumps(self.asdict(), indent=2) + "\n", encoding="utf-8")
        # An earlier meta.json must not describe the new blocks for a moment.
        (folder / "meta.json").unlink(missing_ok=True)

    @property
    def width(self) -> int:
        """Numbers a row of the files: the K labels of a block, then its tokens."""
        return len(self.labels) + self.length

    @property
    def start_id(self) -> int:
        """What an autoregressive model reads before a block."""
        return self.vocab_size if self.eos_id is None else self.eos_id


@dataclass(frozen=True)
class Packed:
    """The splits, rows [N, K + L] of K labels and L token ids as read-only memory maps.

    Attributes:
        train_rows: of a stream windows that overlap, one a place.
        eval_rows: what training looks at; but of some streams, that is test.
    """

    train_rows: np.ndarray[Any, np.dtype[Any]]
    test_rows: np.ndarray[Any, np.dtype[Any]]
    eval_rows: np.ndarray[Any, np.dtype[Any]]
    meta: Meta

    @property
    def train(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Token ids [N, L] of the blocks that are trained on."""
        return self.train_rows[:, len(self.meta.labels) :]

    @property
    def test(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Token ids [N, L] of the held-out blocks."""
        return self.test_rows[:, len(self.meta.labels) :]

    @property
    def test_labels(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Labels of the held-out blocks as numbers [N, K]: 1 and more, 0 where one is not said."""
        return self.test_rows[:, : len(self.meta.labels)]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map the files that `pack` wrote.

        Raises:
            DataError: a file is missing, damaged or of another size than meta.json says.
        """
        try:
            meta = Meta(**json.loads((folder / "meta.json").read_text(encoding="utf-8")))
            splits = {split: _map_blocks(folder, split, meta) for split in meta.num_blocks}
            train, test = splits["train"], splits["test"]
        except FileNotFoundError as error:
            raise DataError(f"{error.filename} is missing: no packed data in {folder}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"the packed data in {folder} are damaged: {error}") from error
        return cls(train, test, splits.get(EVAL, test), meta)

    def identity(self, folder: Path) -> dict[str, Any]:
        """What the blocks in `folder` are known by: all that meta.json says of them.

        To read tens of gigabytes at each start would take longer than all else. So a file is read,
        and its hash compared, only if it is not the one that was written or read last time: by its
        inode, its size and the time of its last change, as DVC tells files too.

        Raises:
            DataError: a file is not what `pack` wrote.
        """
        for split, written in self.meta.sha256.items():
            path = folder / f"{split}.bin"
            if not _seen(path, written).exists():
                if sha256(path) != written:
                    # Whether DVC trusts its cache depends on the mode, which a link shares.
                    raise DataError(
                        f"{path} was changed since `pack` wrote it, as is what it may link to in "
                        f"DVC's cache: `chmod u+w {path}`, which has DVC look, then `dvc repro`"
                    )
                remember(path, written)
        return self.meta.asdict()

    @property
    def overlaps(self) -> bool:
        """Whether training blocks overlap, so that training draws them at random."""
        return self.meta.mode == "stream"

    def with_some_test(self, num: int | None) -> Self:
        """With at most `num` of the held-out blocks, evenly spaced; None leaves all."""
        num_of = len(self.test_rows)
        if num is None or num >= num_of:
            return self
        return replace(self, test_rows=self.test_rows[np.arange(num) * num_of // num])

    def some_held_out(self, num: int) -> np.ndarray[Any, np.dtype[Any]]:
        """At most `num` held-out rows, evenly spread: neighbours may be of one kind."""
        return self.eval_rows[:: max(1, len(self.eval_rows) // num)][:num]


def remember(path: Path, written: str) -> None:
    """Note that a file is what hashes to `written`, until somebody changes it."""
    seen = _seen(path, written)
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.touch()


def _seen(path: Path, written: str) -> Path:
    stat = path.stat()
    what = f"{written} {stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
    return store() / "seen" / hashlib.sha256(what.encode()).hexdigest()[:16]


def _map_blocks(folder: Path, split: str, meta: Meta) -> np.ndarray[Any, np.dtype[Any]]:
    path, dtype = folder / f"{split}.bin", np.dtype(meta.dtype).newbyteorder("<")
    num, width = meta.num_blocks[split], meta.width
    overlap = meta.mode == "stream" and split == "train"
    size = num + width - 1 if overlap else num * width
    if path.stat().st_size != size * dtype.itemsize:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, not {size * dtype.itemsize}")
    rows = np.memmap(path, dtype=dtype, mode="r", shape=(size,))
    return sliding_window_view(rows, width) if overlap else rows.reshape(num, width)


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


def blocks_line(meta: Meta) -> str:
    """How many blocks the running text of each split fills, and what was left of it."""
    train = "of the training split, any window is a block; " if meta.mode == "stream" else ""
    blocks, dropped = (
        ", ".join(f"{split} {num:,}" for split, num in counts.items())
        for counts in (meta.num_blocks, meta.num_dropped)
    )
    return (
        f"blocks of {meta.length:,} tokens: {blocks}; {train}"
        f"tokens at the end that fill no block, dropped: {dropped}"
    )


def unknown_line(meta: Meta) -> str:
    """The characters that became unk and how often, for each split that has any."""
    splits = (
        f"{split} {meta.num_unknown[split]} ("
        + ", ".join(f"{character!r} {count}" for character, count in counts.items())
        + ")"
        for split, counts in meta.unknown.items()
        if counts
    )
    return "unknown characters became <unk>: " + "; ".join(splits)
