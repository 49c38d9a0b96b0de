"""What this project knows of a model that it trained: its data and its figures."""

import hashlib
from pathlib import Path
from typing import Any

import yaml

from pipeline.files import read_object
from pipeline.huggingface.card import Data, Results

PROVENANCE = "artifacts/provenance.json"
RUN = "artifacts/runs/train.json"
RESULTS = "reports/results.json"


def data_and_results(weights_sha256: str) -> tuple[Data | None, Results | None]:
    """Of the model with these weights, if the working folder's last `dvc repro` is of it.

    results.json names no weights: dvc.lock says which training it was made from.
    """
    if not (Path(RUN).is_file() and read_object(Path(RUN))["sha256"] == weights_sha256):
        return None, None
    provenance = Path(PROVENANCE)
    data = Data.model_validate(read_object(provenance)) if provenance.is_file() else None
    if not _reported_from_these():
        return data, None
    return data, Results.model_validate(read_object(Path(RESULTS)))


def _reported_from_these() -> bool:
    """Whether dvc.lock has the report's results, as they are, as made from this training."""
    lock = Path("dvc.lock")
    if not (lock.is_file() and Path(RESULTS).is_file()):
        return False
    stage: dict[str, Any] = yaml.safe_load(lock.read_bytes())["stages"].get("report", {})
    entries = [*stage.get("deps", []), *stage.get("outs", [])]
    locked = {entry["path"]: entry.get("md5") for entry in entries}
    return all(
        locked.get(path) == hashlib.md5(Path(path).read_bytes()).hexdigest()
        for path in (RUN, RESULTS)
    )
