"""What a run shows, read from the files that the other stages wrote."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import DataError
from pipeline.files import read_json


class Point(NamedTuple):
    """One value of a metric. Scalars stand at step 0."""

    key: str
    step: int
    value: float


@dataclass(frozen=True)
class Record:
    """Everything that one MLflow run holds.

    `provenance` is what provenance.json says of the data; `files` maps an artifact's path in the
    run to the file, `texts` to its content.
    """

    fingerprint: str
    params: dict[str, str]
    tags: dict[str, str]
    points: list[Point]
    provenance: Mapping[str, Any]
    files: dict[str, Path]
    texts: dict[str, str]


def read_object(path: Path, *required: str) -> dict[str, Any]:
    """A JSON object that has the keys `required`.

    Raises:
        DataError: the file is missing, damaged, or lacks a key.
    """
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run dvc repro") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    missing = [key for key in required if not isinstance(values, dict) or key not in values]
    if missing or not isinstance(values, dict):
        raise DataError(f"{path} has no {', '.join(missing) or 'object'}: run dvc repro -f report")
    return values


def metric_points(metrics: Mapping[str, Any], train_run: Mapping[str, Any]) -> Iterator[Point]:
    """The scalars and curves of reports/metrics.json and artifacts/runs/train.json.

    A curve's step is the number of sampling steps. Text and null are no metric.
    """
    scalars = {key: metrics[key] for key in ("gen_ppl", "entropy")} | metrics["likelihood"]
    scalars |= {f"real_text/{key}": value for key, value in metrics["real_text"].items()}
    scalars |= {key: train_run[key] for key in ("num_params", "num_tokens", "tokens_per_second")}
    scalars["train_seconds"] = train_run["seconds"]
    yield from _numbers(scalars, step=0)
    for num_steps, scores in metrics["by_steps"].items():
        curve = {f"by_steps/{key}": value for key, value in scores.items()}
        yield from _numbers(curve, step=int(num_steps))


def loss_points(path: Path) -> Iterator[Point]:
    """The curves of a loss.csv: every column but `step`, where it has a value.

    Raises:
        DataError: the file is missing or holds something that is no number.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                for key, value in row.items():
                    if value:
                        yield Point(key, step, float(value))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run dvc repro") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no table of losses: {error!r}") from None


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as MLflow's parameters and tags hold them; lists as JSON."""
    return {
        key: json.dumps(value) if isinstance(value, list | dict) else str(value)
        for key, value in values.items()
    }


def _numbers(values: Mapping[str, Any], *, step: int) -> Iterator[Point]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers({f"{key}/{name}": part for name, part in value.items()}, step=step)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield Point(key, step, float(value))
