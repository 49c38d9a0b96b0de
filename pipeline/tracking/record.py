"""What the MLflow run of an experiment holds, gathered from what the other stages wrote."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.identity import (
    dvc_experiment,
    experiment_id,
    file_sha256,
    git_state,
    operational_params,
    result_params,
    sample_paths,
)
from pipeline.config.params import Params
from pipeline.errors import DataError
from pipeline.files import read_object
from pipeline.tracking.store import redact

PARAMS = Path("params.yaml")
REPORT = ("index.html", "metrics.json", "results.json", "by_steps.csv", "loss.csv")
# Of a zero-shot set under a protocol.
ZERO_SHOT = (
    "nats_per_token",
    "nats_per_token_stderr",
    "perplexity_per_token",
    "perplexity_per_token_stderr",
    "bits_per_byte",
)


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


def make_record(params: Params, artifacts: Path, reports: Path) -> Record:
    """What the run of these parameters and files holds."""
    samples = sample_paths(artifacts, params)
    checkpoint_sha256 = file_sha256(artifacts / "checkpoint" / "model.safetensors")
    fingerprint = experiment_id(params, checkpoint_sha256, samples)
    provenance = read_object(artifacts / "provenance.json", "repo", "revision", "commit", "files")
    train_run = read_object(
        artifacts / "runs" / "train.json",
        *("num_params", "num_tokens", "seconds", "tokens_per_second", "device"),
    )
    results = read_object(
        reports / "results.json",
        *("gen_ppl", "entropy", "likelihood", "by_steps", "by_temperature", "real_text", "scorer"),
    )
    tags = {
        "fingerprint": fingerprint,
        "publication_id": fingerprint,
        "publish_repo": params.publish.repo,
        "data_commit": provenance["commit"],
        "data_revision": provenance["revision"],
        "checkpoint_sha256": checkpoint_sha256,
        "scorer": results["scorer"],
        "device": train_run["device"],
        "lock_sha256": train_run.get("lock_sha256"),
        **{f"params.{key}": value for key, value in operational_params(params).items()},
        **_code_tags(),
    }
    return Record(
        fingerprint=fingerprint,
        params=as_text(result_params(params)),
        tags=as_text(tags),
        points=[*metric_points(results, train_run), *loss_points(reports / "loss.csv")],
        provenance=provenance,
        files={f"samples/{path.name}": path for path in samples}
        | {f"report/{name}": reports / name for name in REPORT}
        | {
            "snapshots.jsonl": artifacts / "snapshots.jsonl",
            "config/checkpoint/config.json": artifacts / "checkpoint" / "config.json",
        },
        texts={
            f"config/{path.name}": redact(path.read_text(encoding="utf-8"))
            for path in (PARAMS, artifacts / "provenance.json")
        },
    )


def _code_tags() -> dict[str, Any]:
    """The code and the DVC experiment; what is unknown has no tag."""
    git = git_state()
    name, baseline = dvc_experiment()
    tags = {
        "git_commit": git.commit,
        "git_branch": git.branch,
        # MLflow's own columns of its table of runs.
        "mlflow.source.git.commit": git.commit,
        "mlflow.source.name": "stages/track.py",
        "dvc_exp_name": name,
        "dvc_exp_baseline": baseline,
    }
    known = {key: value for key, value in tags.items() if value is not None}
    return known | {"git_dirty": str(git.dirty).lower()}


def metric_points(results: Mapping[str, Any], train_run: Mapping[str, Any]) -> Iterator[Point]:
    """The scalars and curves of reports/results.json and artifacts/runs/train.json.

    A curve's step is the number of sampling steps, or the temperature in thousandths. Text and null
    are no metric.
    """
    scalars = {key: results[key] for key in ("gen_ppl", "entropy")} | results["likelihood"]
    scalars |= {f"real_text/{key}": value for key, value in results["real_text"].items()}
    scalars |= {key: train_run[key] for key in ("num_params", "num_tokens", "tokens_per_second")}
    scalars["train_seconds"] = train_run["seconds"]
    yield from _numbers(scalars, step=0)
    for num_steps, scores in results["by_steps"].items():
        curve = {f"by_steps/{key}": value for key, value in scores.items()}
        yield from _numbers(curve, step=int(num_steps))
    for temperature, scores in results["by_temperature"].items():
        curve = {f"by_temperature/{key}": value for key, value in scores.items()}
        yield from _numbers(curve, step=round(1000 * float(temperature)))


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


def zero_shot_points(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Point]:
    """Figures of zero-shot sets: our name of a set -> protocol -> what it was scored as."""
    for name, by_protocol in found.items():
        for protocol, result in by_protocol.items():
            values = {key: result[key] for key in ZERO_SHOT}
            values["last_word_accuracy"] = result.get("last_word", {}).get("accuracy")
            named = {f"zero_shot/{name}/{protocol}/{key}": each for key, each in values.items()}
            yield from _numbers(named, step=0)


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as MLflow's parameters and tags hold them: lists as JSON, and no password."""
    return {
        key: redact(json.dumps(value) if isinstance(value, list | dict) else str(value))
        for key, value in values.items()
    }


def _numbers(values: Mapping[str, Any], *, step: int) -> Iterator[Point]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers({f"{key}/{name}": part for name, part in value.items()}, step=step)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield Point(key, step, float(value))
