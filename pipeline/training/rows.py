"""What a training logs, in files that only grow: its checkpoints say how long they were."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.files import whole

Row = dict[str, Any]


class Rows:
    """One JSON object a line; new ones wait in memory until they are written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[Row] = []

    def append(self, row: Row) -> None:
        """Add a row, plain values."""
        self._waiting.append(row)

    def write(self) -> int:
        """Have all rows on the disk; their bytes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self._waiting)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise
        self._waiting.clear()
        return self.path.stat().st_size

    def cut(self, size: int) -> None:
        """Go back to the first `size` bytes.

        Raises:
            CheckpointError: there are not as many.
        """
        self._waiting.clear()
        if size == 0:
            self.path.unlink(missing_ok=True)
            return
        with self.path.open("ab") as file:
            if file.tell() < size:
                raise CheckpointError(
                    f"{self.path} has {file.tell()} bytes of {size}: remove {self.path.parent} to "
                    "start again"
                )
            file.truncate(size)

    def __iter__(self) -> Iterator[Row]:
        """All of them.

        Raises:
            CheckpointError: a line is damaged.
        """
        if self.path.exists():
            with self.path.open("rb") as file:
                yield from map(self._row, file)
        yield from self._waiting

    def _row(self, line: bytes) -> Row:
        try:
            row: Row = json.loads(line)
        except ValueError as error:
            raise CheckpointError(
                f"{self.path} is damaged: remove {self.path.parent} to start again ({error})"
            ) from None
        return row


def write_losses(path: Path, rows: Iterable[Row]) -> None:
    """Write rows of step, train_loss, eval_loss and lr as CSV."""
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["step", "train_loss", "eval_loss", "lr"])
        writer.writeheader()
        writer.writerows(rows)
