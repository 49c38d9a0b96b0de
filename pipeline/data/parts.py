"""A corpus in parts that are read and encoded apart, each by whoever has the files: row groups.

A file without row groups (all but parquet, and what is compressed as a whole) is one part.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from pipeline.config.data import Data
from pipeline.data.corpus import read_row_group, read_rows, row_groups
from pipeline.data.encoding import Encoder
from pipeline.data.labels import named, watching
from pipeline.data.pieces import Packer, Piece
from pipeline.data.splits import Empty, Split, files_for, is_held_out
from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.errors import DataError
from pipeline.progress import progress


@dataclass(frozen=True)
class Part:
    """Rows of one file.

    Attributes:
        group: which of its row groups; None for all of it.
        split: whose documents they are; None where `data.holdout` takes some of train's.
    """

    path: Path
    group: int | None
    split: Split | None

    def __str__(self) -> str:
        return str(self.path) if self.group is None else f"{self.path}, row group {self.group}"


@dataclass(frozen=True)
class Recipe:
    """What packs any part, in a process that has the same folder.

    Attributes:
        tokenizer: its folder.
        sha256: of that tokenizer.
        names: what the values of each label are called, by column.
    """

    data: Data
    tokenizer: Path
    sha256: str
    mode: Mode
    length: int
    names: dict[str, list[str]]


@dataclass(frozen=True)
class PackedPart:
    """A part's pieces, each with its split, in order, and how many documents were empty."""

    pieces: list[tuple[Split, Piece]]
    empty: Empty


def parts_of(folder: Path, data: Data) -> list[Part]:
    """The parts of a corpus in the order in which `pack` writes them.

    Raises:
        DataError: a split has no file, or one is damaged.
    """
    splits: tuple[Split | None, ...] = (None,) if data.files.test is None else get_args(Split)
    return [
        Part(path, group, split)
        for split in splits
        for path in (folder / name for name in files_for(folder, split or "train", data)[1])
        for group in range(len(row_groups(path))) or [None]
    ]


def pack_part(recipe: Recipe, part: Part) -> PackedPart:
    """Read and encode a part, which is held in memory meanwhile.

    Raises:
        DataError: the file or the tokenizer is not here or damaged, or a document does not fit.
    """
    sides: dict[Split, list[tuple[Any, ...]]] = {split: [] for split in get_args(Split)}
    for row in _rows(recipe.data, part, [*recipe.names]):
        held_out = part.split is None and is_held_out(row[0], recipe.data.holdout)
        sides["test" if held_out else part.split or "train"].append(row)
    seen: dict[str, list[list[int]]] = {split: [] for split in sides}
    packer = Packer(
        _encoder(recipe.tokenizer, recipe.sha256),
        recipe.mode,
        recipe.length,
        seen if recipe.names else None,
    )
    empty = Empty()
    pieces: list[tuple[Split, Piece]] = []
    try:
        for split, rows in sides.items():
            texts = watching(named(rows, recipe.data), recipe.names, seen[split])
            for batch in packer.batches(empty.watching(split, texts)):
                pieces.append((split, packer.piece(split, batch)))
    except DataError as error:
        raise DataError(f"{part}: {error}") from None
    return PackedPart(pieces, empty)


def _rows(data: Data, part: Part, labels: list[str]) -> Iterator[tuple[Any, ...]]:
    if part.group is None:
        return read_rows(part.path, data.column, labels)
    return read_row_group(part.path, data.column, labels, part.group)


@lru_cache(maxsize=1)
def _encoder(folder: Path, sha256: str) -> Encoder:
    """Made once a process: a vocabulary of GPT-2's size takes a second."""
    tokenizer = TextTokenizer.load(folder)
    if tokenizer.sha256 != sha256:
        raise DataError(f"{folder} holds another tokenizer here: machines must share the folder")
    return Encoder(tokenizer)


def pieces_of(found: Iterable[PackedPart], num: int, empty: Empty) -> Iterator[tuple[Split, Piece]]:
    """The pieces of `num` parts, in order; `empty` counts their documents without a text."""
    for part in progress(found, total=num, desc="pack", unit="part", delay=2):
        empty.add(part.empty)
        yield from part.pieces
