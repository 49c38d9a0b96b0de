"""What the MLflow run of an experiment holds, gathered from what the stages wrote."""

from pathlib import Path
from typing import Any

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
from pipeline.tracking.record import (
    Record,
    as_text,
    loss_points,
    metric_points,
    read_object,
)
from pipeline.tracking.store import redact

PARAMS = Path("params.yaml")


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
    metrics = read_object(
        reports / "metrics.json",
        *("gen_ppl", "entropy", "likelihood", "by_steps", "real_text", "scorer"),
    )
    tags = {
        "fingerprint": fingerprint,
        "publication_id": fingerprint,
        "publish_repo": params.publish.repo,
        "data_commit": provenance["commit"],
        "data_revision": provenance["revision"],
        "checkpoint_sha256": checkpoint_sha256,
        "scorer": metrics["scorer"],
        "device": train_run["device"],
        **{f"params.{key}": value for key, value in operational_params(params).items()},
        **_code_tags(),
    }
    return Record(
        fingerprint=fingerprint,
        params=_redacted(result_params(params)),
        tags=_redacted(tags),
        points=[*metric_points(metrics, train_run), *loss_points(reports / "loss.csv")],
        provenance=provenance,
        files={f"samples/{path.name}": path for path in samples}
        | {f"report/{path.name}": path for path in _report_files(reports)}
        | {
            "snapshots.jsonl": artifacts / "snapshots.jsonl",
            "config/checkpoint/config.json": artifacts / "checkpoint" / "config.json",
        },
        texts={
            f"config/{path.name}": redact(path.read_text(encoding="utf-8"))
            for path in (PARAMS, artifacts / "provenance.json")
        },
    )


def _report_files(reports: Path) -> list[Path]:
    return [reports / name for name in ("index.html", "metrics.json", "by_steps.csv", "loss.csv")]


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


def _redacted(values: dict[str, Any]) -> dict[str, str]:
    return {key: redact(text) for key, text in as_text(values).items()}
