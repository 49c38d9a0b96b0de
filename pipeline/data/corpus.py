"""Documents of a dataset file, one at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

ROWS_AT_ONCE = 64
# Else a row group's whole column would be read at once, however large it is.
READ_AT_ONCE = {"buffer_size": 2**20, "pre_buffer": False}


def read_documents(path: Path, column: str) -> Iterator[str]:
    """Stream the texts in `column` of a .parquet or .jsonl file, in the file's order.

    Raises:
        DataError: the file is missing, damaged or of another format; it has no such column, or one
            that does not hold text; a row has no text; or there is no document at all.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    readers = {".parquet": _parquet, ".jsonl": _jsonl}
    if path.suffix not in readers:
        raise DataError(f"{path}: a dataset file ends in {' or '.join(readers)}")
    num_documents = 0
    for text in readers[path.suffix](path, column):
        if not isinstance(text, str):
            what = "no text" if text is None else f"no text but {_short(text)}"
            raise DataError(f"{path}: row {num_documents} holds {what} in column {column!r}")
        num_documents += 1
        yield text
    if not num_documents:
        raise DataError(f"{path} is empty: it has no document in column {column!r}")


def _parquet(path: Path, column: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, **READ_AT_ONCE) as file:
            _check_column(path, file.schema_arrow, column)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[column]):
                yield from batch.column(0).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged or not parquet: {error}") from error


def _check_column(path: Path, schema: Any, column: str) -> None:
    import pyarrow as pa

    if column not in schema.names:
        raise DataError(
            f"{path} has no column {column!r} (data.column); its columns: {', '.join(schema.names)}"
        )
    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{path}: column {column!r} (data.column) holds {kind}, not text")


def _jsonl(path: Path, column: str) -> Iterator[Any]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if b"\\u" in line:
                    # JSON can spell half a surrogate pair, which no file can hold.
                    json.dumps(row, ensure_ascii=False).encode()
            except ValueError as error:
                raise DataError(f"{path}: line {number} is not valid JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}: line {number} is no JSON object but {_short(row)}")
            if column not in row:
                raise DataError(
                    f"{path}: line {number} has no key {column!r} (data.column); "
                    f"its keys: {', '.join(row)}"
                )
            yield row[column]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
