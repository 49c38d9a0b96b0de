"""The loss curve of a training as a file."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.files import whole


def write_losses(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows of step, train_loss, eval_loss and lr as CSV."""
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["step", "train_loss", "eval_loss", "lr"])
        writer.writeheader()
        writer.writerows(rows)
