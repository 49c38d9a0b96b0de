"""Documents of a dataset file, one at a time."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.errors import DataError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
# Bytes of a line, characters of a field. Else a small file of nothing but zeros, compressed, would
# fill the memory.
MOST_AT_ONCE = 2**27
ROWS_AT_ONCE = 64
MOST_NAMES = 20
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair, which JSON can spell and no file can hold."""
Columns = dict[str, str]
"""Columns of a table, that of the texts first, each with the key of params.yaml that names it."""
# Else a row group's whole column would be read at once, however large it is.
READ_AT_ONCE = {"buffer_size": 2**20, "pre_buffer": False}


def format_of(path: Path) -> str:
    """The suffix that says what a dataset file is, of a compressed one that before its last.

    Raises:
        DataError: it is none that can be read.
    """
    suffix = path.with_suffix("").suffix if path.suffix in COMPRESSIONS else path.suffix
    if suffix not in READERS:
        raise DataError(
            f"{path}: a dataset file is .txt (a document a line), .csv or .tsv (a header, then a "
            "row a document), .jsonl or .parquet, each also .gz or .zst; convert it to one of "
            "these, or rename it if it is one"
        )
    return suffix


def read_documents(path: Path, column: str) -> Iterator[str]:
    """Stream the texts in `column` of a dataset file, in the file's order.

    Lines of a .txt file are documents, an empty one too, and have no column; in other formats they
    are nothing. A file without rows adds nothing, whatever its columns.

    Raises:
        DataError: the file is missing, damaged or of another format; it has no such column, two of
            them, or one that does not hold text; or a row has no text.
    """
    for text, *_ in read_rows(path, column, ()):
        yield text


def read_rows(path: Path, column: str, labels: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """As `read_documents`, each text with what its row has in the columns `labels`."""
    if not path.is_file():
        raise DataError(f"{path} is missing")
    columns = _columns(column, labels)
    yield from _checked(path, column, READERS[format_of(path)](path, columns))


def _columns(column: str, labels: Sequence[str]) -> Columns:
    return {column: "data.column"} | dict.fromkeys(labels, "data.labels")


def _checked(
    path: Path, column: str, rows: Iterable[tuple[Any, ...]], first: int = 0
) -> Iterator[tuple[Any, ...]]:
    """Rows whose first value is a text, counted from `first`."""
    for row, values in enumerate(rows, first):
        if not isinstance(values[0], str):
            what = "no text" if values[0] is None else f"no text but {_short(values[0])}"
            raise DataError(f"{path}: row {row} holds {what} in column {column!r}")
        yield values


def row_groups(path: Path) -> list[int]:
    """Rows of each part of a dataset file that can be read without the others; none: it has none.

    Raises:
        DataError: the file is damaged, or of another format.
    """
    if format_of(path) != ".parquet" or path.suffix in COMPRESSIONS:
        return []
    with _parquet_file(path) as file:
        metadata = file.metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def read_row_group(
    path: Path, column: str, labels: Sequence[str], group: int
) -> Iterator[tuple[Any, ...]]:
    """The rows of `read_rows` that are in one of a file's `row_groups`."""
    first = sum(row_groups(path)[:group])
    return _checked(path, column, _parquet(path, _columns(column, labels), group), first)


def count_rows(path: Path) -> int:
    """How many documents a dataset file has, of a parquet file by its footer alone.

    Raises:
        DataError: the file is damaged, or of another format.
    """
    match format_of(path):
        case ".parquet":
            with _parquet_file(path) as file:
                return int(file.metadata.num_rows)
        case ".jsonl":
            return sum(1 for _, line in _lines(path) if line.strip())
        case ".txt":
            return sum(1 for _ in _texts(path))
        case suffix:
            return max(0, sum(1 for _ in _table(path, DELIMITERS[suffix])) - 1)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """What is in a file, decompressed as it is read."""
    if path.suffix not in COMPRESSIONS:
        with path.open("rb") as file:
            yield file
        return
    import pyarrow as pa

    kind = COMPRESSIONS[path.suffix]
    if not path.stat().st_size:
        raise DataError(f"{path} is damaged or not {kind}: it has no bytes")
    try:
        with pa.CompressedInputStream(path, kind) as stream:
            yield io.BufferedReader(stream)
    except OSError as error:
        if error.errno is not None:  # the disk's, not the library's
            raise
        raise DataError(f"{path} is damaged or not {kind}: {_said(error)}") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their ends, numbered from 1."""
    with _opened(path) as file:
        lines = iter(partial(file.readline, MOST_AT_ONCE + 1), b"")
        for number, line in enumerate(lines, start=1):
            if len(line) > MOST_AT_ONCE:
                raise DataError(
                    f"{path}: line {number} has more than {MOST_AT_ONCE:,} bytes, and a document "
                    "has at most so many: cut it into several"
                )
            yield number, line


def _texts(path: Path) -> Iterator[str]:
    """Lines of a text file with their ends, without the mark of byte order."""
    for number, line in _lines(path):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: line {number} is not UTF-8 ({error}): save the file as UTF-8"
            ) from error
        if "\0" in text:
            raise DataError(
                f"{path}: line {number} holds the character NUL, which no text has: save the file "
                "as UTF-8 text"
            )
        yield text


def _txt(path: Path, columns: Columns) -> Iterator[tuple[str]]:
    if len(columns) > 1:
        raise DataError(f"{path}: a .txt file has no columns for data.labels")
    for line in _texts(path):
        yield (line.removesuffix("\n").removesuffix("\r"),)


def _table(path: Path, delimiter: str) -> Iterator[list[str]]:
    """The header and the rows of a table, as many fields in each; empty lines are left out."""
    csv.field_size_limit(MOST_AT_ONCE)
    rows = csv.reader(_texts(path), delimiter=delimiter, strict=True)
    width = None
    try:
        for row in filter(None, rows):
            width = width or len(row)
            if len(row) != width:
                raise DataError(
                    f"{path}: line {rows.line_num} ends a row of {_fields(len(row))}, and the "
                    f"header has {width}: quote a field that holds {delimiter!r} or a line's end"
                )
            yield row
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num}: {error}") from error


def _delimited(path: Path, columns: Columns, delimiter: str) -> Iterator[tuple[str, ...]]:
    rows = _table(path, delimiter)
    names, places = next(rows, []), None
    for row in rows:
        if places is None:
            _check_names(path, names, columns)
            places = [names.index(column) for column in columns]
        # Of a list: tuples of generators are resized, and leave thousands on Python's free list.
        yield tuple([row[place] for place in places])


@contextmanager
def _parquet_file(path: Path) -> "Iterator[ParquetFile]":
    """A parquet file; what is read of it and is damaged is said."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _seekable(path) as source:
        try:
            with pq.ParquetFile(source, **READ_AT_ONCE) as file:
                yield file
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is damaged or not parquet: {_said(error)}") from error


@contextmanager
def _seekable(path: Path) -> Iterator[Path | BinaryIO]:
    """`path`, or what is in it on the disk beside it: parquet begins with its end."""
    if path.suffix not in COMPRESSIONS:
        yield path
        return
    with TemporaryFile(dir=path.parent) as unpacked:
        with _opened(path) as packed:
            shutil.copyfileobj(packed, unpacked)
        yield unpacked


def _parquet(path: Path, columns: Columns, group: int | None = None) -> Iterator[tuple[Any, ...]]:
    with _parquet_file(path) as file:
        if not file.metadata.num_rows:
            return
        _check_columns(path, file.schema_arrow, columns)
        groups = None if group is None else [group]
        for batch in file.iter_batches(ROWS_AT_ONCE, groups, columns=[*columns]):
            # By name: a.b asks for the field b of a column a as well.
            for values in zip(*map(batch.column, columns), strict=True):
                yield tuple([value.as_py() for value in values])  # All at once would be a copy.


def _check_names(path: Path, names: list[str], columns: Columns) -> None:
    for column, key in columns.items():
        if column not in names:
            raise DataError(
                f"{path} has no column {column!r} ({key}); its columns: {_listed(names)}"
            )
        if names.count(column) > 1:
            raise DataError(f"{path} has more than one column {column!r} ({key})")


def _check_columns(path: Path, schema: Any, columns: Columns) -> None:
    import pyarrow as pa

    _check_names(path, schema.names, columns)
    types = pa.types
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    # Others have values that Python cannot hold, such as dates of the year 10,000.
    plain = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    for place, (column, key) in enumerate(columns.items()):
        kind = schema.field(column).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if not any(is_so(kind) for is_so in (texts + plain if place else texts)):
            asked = "text or numbers" if place else "text"
            raise DataError(f"{path}: column {column!r} ({key}) holds {kind}, not {asked}")


def _jsonl(path: Path, columns: Columns) -> Iterator[tuple[Any, ...]]:
    spelled = {column: _spelled(column) for column in columns}
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is no JSON object but {_short(row)}")
        for column, key in columns.items():
            if column not in row:
                raise DataError(
                    f"{path}: line {number} has no key {column!r} ({key}); its keys: {_listed(row)}"
                )
            # A letter may be spelled by its number.
            may_be_twice = b"\\u00" in line or sum(map(line.count, spelled[column])) > 1
            if may_be_twice and _is_twice(column, line):
                raise DataError(f"{path}: line {number} has the key {column!r} ({key}) twice")
            value = row[column]
            if isinstance(value, str) and b"\\u" in line and SURROGATE.search(value):
                raise DataError(
                    f"{path}: line {number} holds half a surrogate pair in column {column!r}: "
                    f"{_short(value)}"
                )
        yield tuple([row[column] for column in columns])


READERS: dict[str, Callable[[Path, Columns], Iterator[tuple[Any, ...]]]] = {
    ".txt": _txt,
    **{suffix: partial(_delimited, delimiter=mark) for suffix, mark in DELIMITERS.items()},
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _spelled(name: str) -> set[bytes]:
    """How files write a name: as it is, or in ASCII."""
    return {json.dumps(name, ensure_ascii=ascii).encode() for ascii in (False, True)}


def _is_twice(key: str, line: bytes) -> bool:
    """Whether the object in a line of JSON has a key more than once, not the objects inside."""
    pairs = json.loads(line.decode("utf-8-sig"), object_pairs_hook=list)
    return [name for name, _ in pairs].count(key) > 1


def _listed(names: Collection[str]) -> str:
    """Names as they are written in code, since some look alike; the first ones of many."""
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(_short, islice(names, MOST_NAMES))) + more


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _fields(number: int) -> str:
    return f"{number} field" + "s" * (number != 1)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())
