"""What documents are labelled with: values of columns, or ranges that edges cut numbers into."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.config.data import Data, Label
from pipeline.data.splits import Split, split_rows
from pipeline.errors import DataError

MOST_VALUES = 1000
"""Different values of a column: more are no categories."""
LONGEST = 200
"""Characters of what a value is called: it stands with each sample, and in the report."""


def label_names(folder: Path, data: Data) -> dict[str, list[str]]:
    """By column what its values are called: those of the training split, sorted, or the ranges.

    Raises:
        DataError: a column is missing, holds what is no category or no number, or nothing.
    """
    found: dict[str, dict[str, None]] = {label.column: {} for label in data.labels}
    for _, row in labelled(folder, "train", data):
        for label, name in zip(data.labels, row, strict=True):
            if name is not None:
                found[label.column][name] = None
                _check_few(label.column, found[label.column])
    for column, names in found.items():
        if not names:
            raise DataError(f"data.labels: column {column!r} says nothing of the training split")
    return {
        label.column: [*ranges(*label.edges)] if label.edges else sorted(found[label.column])
        for label in data.labels
    }


def _check_few(column: str, names: Mapping[str, None]) -> None:
    if len(names) > MOST_VALUES:
        raise DataError(
            f"data.labels: column {column!r} has more than {MOST_VALUES:,} values: cut numbers at "
            "edges, or take another column"
        )


def labelled(
    folder: Path, split: Split, data: Data
) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    """Each document of a split with what its labels are called, None where one is not said.

    Raises:
        DataError: as `label_names`.
    """
    return named(split_rows(folder, split, data, [each.column for each in data.labels]), data)


def named(
    rows: Iterable[tuple[Any, ...]], data: Data
) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    """Documents with the values of their labels' columns, as `labelled` has them."""
    for text, *values in rows:
        pairs = zip(data.labels, values, strict=True)
        yield text, tuple(name_of(label, value) for label, value in pairs)


def labelled_by_column(
    folder: Path, split: Split, data: Data
) -> Iterator[tuple[str, dict[str, str]]]:
    """Each document of a split with what is said of it, by column."""
    columns = [label.column for label in data.labels]
    for text, row in labelled(folder, split, data):
        pairs = zip(columns, row, strict=True)
        yield text, {column: name for column, name in pairs if name is not None}


def name_of(label: Label, value: Any) -> str | None:
    """What a value of the column is called; None where it is missing.

    Raises:
        DataError: it is no category, or no number where edges cut.
    """
    if value is None or value == "":
        return None
    if not label.edges:
        if isinstance(value, str | int | float):
            return _short_enough(label.column, str(value))
        raise DataError(
            f"data.labels: column {label.column!r} must hold text or numbers (got {value!r:.80})"
        )
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if number != number:
        raise DataError(
            f"data.labels: column {label.column!r} must hold numbers to cut at edges "
            f"(got {value!r:.80})"
        )
    return ranges(*label.edges)[bisect_right(label.edges, number)]


def _short_enough(column: str, name: str) -> str:
    if len(name) > LONGEST:
        raise DataError(
            f"data.labels: column {column!r} must hold values of at most {LONGEST} characters "
            f"(got {len(name):,}: {name!r:.80})"
        )
    return name


@cache  # Each document asks.
def ranges(*edges: float) -> tuple[str, ...]:
    """What the ranges between edges are called; an edge begins one. Decades have their own name."""
    between = [
        f"{a:g}s" if a % 10 == 0 and b - a == 10 and a >= 1000 else f"{a:g}-{b:g}"
        for a, b in pairwise(edges)
    ]
    return (f"below {edges[0]:g}", *between, f"from {edges[-1]:g}")


def watching(
    documents: Iterable[tuple[str, tuple[str | None, ...]]],
    names: Mapping[str, Sequence[str]],
    seen: list[list[int]],
) -> Iterator[str]:
    """The texts of `labelled` documents, as they stream by; their labels as numbers go to `seen`.

    They are counted from 1 in each column; 0 is what is not said, or not in the training split.
    """
    places = [{name: place for place, name in enumerate(each, 1)} for each in names.values()]
    for text, row in documents:
        if places:
            pairs = zip(places, row, strict=True)
            seen.append([0 if name is None else place.get(name, 0) for place, name in pairs])
        yield text
