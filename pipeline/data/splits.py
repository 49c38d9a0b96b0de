"""Which files, and which of their documents, are a split."""

import hashlib
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, get_args

from pipeline.config.data import Data, DataFiles
from pipeline.data.corpus import read_rows
from pipeline.errors import DataError
from pipeline.progress import progress

Split = Literal["train", "test"]


def is_pattern(name: str) -> bool:
    """Whether more than one path can match."""
    return any(character in name for character in "*?[")


def matching(paths: Iterable[str], name: str) -> list[str]:
    """The paths that `name` means, sorted: itself, or what it matches as a pattern.

    In a pattern * stands for any characters, also for /, ? for one, and [ab] for one of these.
    """
    held = sorted(paths)
    return [name] if name in held else [path for path in held if fnmatchcase(path, name)]


def files_of(paths: Iterable[str], files: DataFiles) -> dict[str, list[str]]:
    """The paths of each split that has files, by split.

    Raises:
        DataError: a split has none, or one file is in both; named by its key in params.yaml.
    """
    held = sorted(paths)
    found = {"train": _chosen(held, "train", files.train)}
    if files.test is not None:
        found["test"] = _chosen(held, "test", files.test)
    if both := set(found["train"]).intersection(found.get("test", [])):
        raise DataError(
            f"data.files: {', '.join(sorted(both))} would be in both train and test "
            f"(got {files.train} and {files.test})"
        )
    return found


def _chosen(held: list[str], split: Split, name: str) -> list[str]:
    chosen = matching(held, name)
    if not chosen:
        instead = ", or null to hold out a share of train" if split == "test" else ""
        raise DataError(
            f"data.files.{split}: no file matches (got {name}); give one of "
            f"{', '.join(held) or 'none'}{instead}"
        )
    return chosen


def is_held_out(text: str, share: float) -> bool:
    """Whether a document belongs to the held-out `share`: decided by its text alone.

    So a split stays the same when documents are added, and equal ones are on the same side.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def split_documents(folder: Path, split: Split, data: Data) -> Iterator[str]:
    """Stream the documents of a split from the fetched files, file after file by name.

    Args:
        folder: where the files are.
        split: which documents; without test files, those of train that `data.holdout` takes.
        data: which files, which column and which share.
    Raises:
        DataError: files are missing or damaged, or the split has no document.
    """
    for text, *_ in split_rows(folder, split, data, ()):
        yield text


def split_rows(
    folder: Path, split: Split, data: Data, labels: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """As `split_documents`, each document with what its row has in the columns `labels`."""
    rows = _rows(folder, split, data, labels)
    if data.files.test is None:
        held_out = split == "test"
        rows = (row for row in rows if is_held_out(row[0], data.holdout) == held_out)
    yield from _not_empty(rows, split, data)


@contextmanager
def both_splits(
    folder: Path, data: Data, labels: Sequence[str]
) -> Iterator[dict[Split, Iterator[tuple[Any, ...]]]]:
    """`split_rows` of each split, for whoever reads train to its end and then test.

    The files are read once: what is held out of them is set aside on the disk as it passes.
    """
    if data.files.test is not None:
        yield {split: split_rows(folder, split, data, labels) for split in get_args(Split)}
        return
    with TemporaryFile(dir=folder) as aside:

        def passing() -> Iterator[tuple[Any, ...]]:
            for row in _rows(folder, "train", data, labels):
                if is_held_out(row[0], data.holdout):
                    pickle.dump(row, aside)
                else:
                    yield row

        def set_aside() -> Iterator[tuple[Any, ...]]:
            size = aside.tell()
            aside.seek(0)
            while aside.tell() < size:
                yield pickle.load(aside)

        yield {
            "train": _not_empty(passing(), "train", data),
            "test": _not_empty(set_aside(), "test", data),
        }


def _not_empty(
    rows: Iterator[tuple[Any, ...]], split: Split, data: Data
) -> Iterator[tuple[Any, ...]]:
    is_empty = True
    for row in rows:
        is_empty = False
        yield row
    if is_empty:
        raise DataError(f"data.holdout: no document is in {split} (got {data.holdout:g})")


def _rows(
    folder: Path, split: Split, data: Data, labels: Sequence[str] = ()
) -> Iterator[tuple[Any, ...]]:
    """All documents of the files that a split is taken from, with their columns `labels`."""
    of, chosen = files_for(folder, split, data)
    is_empty = True
    for path in chosen:
        for row in read_rows(folder / path, data.column, labels):
            is_empty = False
            yield row
    if is_empty:
        raise DataError(f"data.files.{of}: no document in {', '.join(chosen)}")


def files_for(folder: Path, split: Split, data: Data) -> tuple[Split, list[str]]:
    """The files that a split is taken from, by name, and the split that they are given for.

    Raises:
        DataError: there is none.
    """
    held = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    of, name = split, getattr(data.files, split)
    if name is None:
        of, name = "train", data.files.train
    return of, _chosen(held, of, name)


def stream(folder: Path, split: Split, data: Data) -> Iterator[str]:
    """The files of a split as one text, in pieces: documents, a line's end between neighbours.

    A .txt so comes back as it is; without test files that of train is the whole corpus.

    Raises:
        DataError: files are missing or damaged, or have no document.
    """
    between = ""
    for text, *_ in _rows(folder, split, data):
        yield between + text
        between = "\n"


def count_overlap(folder: Path, data: Data) -> tuple[int, int]:
    """How many documents are held out, and how many of these are training documents too.

    Without test files none is: the text of a document alone decides where it goes.

    Raises:
        DataError: as `split_documents`.
    """
    if data.files.test is None:
        everything = (text for text, *_ in _rows(folder, "train", data))
        return sum(is_held_out(text, data.holdout) for text in everything), 0
    # By hash: the texts may not fit the memory.
    held_out = Counter(map(hash, _shown("test", folder, data)))
    training = _shown("train", folder, data)
    both = {key for text in training if (key := hash(text)) in held_out}
    return held_out.total(), sum(held_out[key] for key in both)


class Empty:
    """Counts the documents of each split that are empty, as they stream by."""

    def __init__(self) -> None:
        self._num = Counter[str]()

    def watching(self, split: Split, documents: Iterable[str]) -> Iterator[str]:
        """The documents as they are."""
        for text in documents:
            self._num[split] += not text
            yield text

    def add(self, other: "Empty") -> None:
        """Count those of another, too."""
        self._num.update(other._num)

    def line(self) -> str | None:
        """How many there were; None for none."""
        counts = ", ".join(f"{split} {num:,}" for split, num in self._num.items() if num)
        return f"documents that are empty (in .txt, blank lines): {counts}" if counts else None


def _shown(split: Split, folder: Path, data: Data) -> Iterable[str]:
    """The documents of a split, with a bar where they are many."""
    documents = split_documents(folder, split, data)
    return progress(documents, desc=f"look through {split}", unit="document", delay=2)
