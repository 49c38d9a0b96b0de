"""Commit the samples, results and provenance of this experiment to an Oxen repository."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from pipeline.errors import DataError, reported
from pipeline.files import read_json, read_jsonl
from pipeline.identity import (
    experiment_id,
    file_sha256,
    git_state,
    operational_params,
    result_params,
    sample_paths,
)
from pipeline.params import Params, load_params
from pipeline.remote.publication import without_wall_clock, write_publication
from pipeline.remote.repository import named, open_repository


@reported
def main(artifacts: Path, reports: Path) -> None:
    """Publish ARTIFACTS and REPORTS to `publish.repo`, once for each experiment."""
    params = load_params()
    provenance = _provenance(params, artifacts, reports)
    run = provenance["id"]
    with named("publish.repo"):
        repository = open_repository(params.publish.repo, params.network, create=True)
        published = repository.read(f"runs/{run}.json")
        commit = None
        if published is None or json.loads(published)["metrics"] != provenance["metrics"]:
            samples = [row for path in sample_paths(artifacts, params) for row in read_jsonl(path)]
            with TemporaryDirectory() as folder:
                files = write_publication(Path(folder), provenance, samples)
                commit = repository.commit(files, f"Samples and results of {run[:12]}")
    if commit is None:
        print(f"nothing new to publish: {repository} has {run}")
    else:
        print(f"published {len(samples)} samples as {run} in commit {commit} of {repository}")


def _provenance(params: Params, artifacts: Path, reports: Path) -> dict[str, Any]:
    """What runs/ID.json holds; addresses of servers and repositories to write to stay out."""
    checkpoint = file_sha256(artifacts / "checkpoint" / "model.safetensors")
    git = git_state()
    return {
        "id": experiment_id(params, checkpoint, sample_paths(artifacts, params)),
        "data": _read(artifacts / "provenance.json"),
        "params": {
            **result_params(params),
            **{
                key: value
                for key, value in operational_params(params).items()
                if not key.startswith(("tracking.", "publish."))
            },
        },
        "git": {"commit": git.commit, "dirty": git.dirty},
        "checkpoint_sha256": checkpoint,
        "device": _read(artifacts / "runs" / "train.json")["device"],
        "metrics": without_wall_clock(_read(reports / "metrics.json")),
    }


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run dvc repro") from None


if __name__ == "__main__":
    typer.run(main)
