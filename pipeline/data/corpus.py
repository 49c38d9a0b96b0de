"""Documents of a dataset file, one at a time."""

import json
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

ROWS_AT_ONCE = 64
MOST_NAMES = 20
# Else a row group's whole column would be read at once, however large it is.
READ_AT_ONCE = {"buffer_size": 2**20, "pre_buffer": False}


def read_documents(path: Path, column: str) -> Iterator[str]:
    """Stream the texts in `column` of a .parquet or .jsonl file, in the file's order.

    A file without rows adds nothing, whatever its columns.

    Raises:
        DataError: the file is missing, damaged or of another format; it has no such column, two of
            them, or one that does not hold text; or a row has no text.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    readers = {".parquet": _parquet, ".jsonl": _jsonl}
    if path.suffix not in readers:
        raise DataError(f"{path}: a dataset file ends in {' or '.join(readers)}")
    for row, text in enumerate(readers[path.suffix](path, column)):
        if not isinstance(text, str):
            what = "no text" if text is None else f"no text but {_short(text)}"
            raise DataError(f"{path}: row {row} holds {what} in column {column!r}")
        yield text


def _parquet(path: Path, column: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, **READ_AT_ONCE) as file:
            if not file.metadata.num_rows:
                return
            _check_column(path, file.schema_arrow, column)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[column]):
                # By name: a.b asks for the field b of a column a as well.
                yield from batch.column(column).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path} is damaged or not parquet: {said}") from error


def _check_column(path: Path, schema: Any, column: str) -> None:
    import pyarrow as pa

    if column not in schema.names:
        raise DataError(
            f"{path} has no column {column!r} (data.column); its columns: {_listed(schema.names)}"
        )
    if schema.names.count(column) > 1:
        raise DataError(f"{path} has more than one column {column!r} (data.column)")
    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(is_text(kind) for is_text in texts):
        raise DataError(f"{path}: column {column!r} (data.column) holds {kind}, not text")


def _jsonl(path: Path, column: str) -> Iterator[Any]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}: line {number} is not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}: line {number} is no JSON object but {_short(row)}")
            if column not in row:
                raise DataError(
                    f"{path}: line {number} has no key {column!r} (data.column); "
                    f"its keys: {_listed(row)}"
                )
            text = row[column]
            if isinstance(text, str) and b"\\u" in line and not _is_whole(text):
                raise DataError(
                    f"{path}: line {number} holds half a surrogate pair in column {column!r}: "
                    f"{_short(text)}"
                )
            yield text


def _is_whole(text: str) -> bool:
    """Whether a file can hold it: JSON can spell half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(names: Collection[str]) -> str:
    """Names as they are written in code, since some look alike; the first ones of many."""
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(_short, islice(names, MOST_NAMES))) + more


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
