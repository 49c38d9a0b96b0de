"""A checkpoint beside the run, once, which MLflow loads and asks."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from infills import check_predictions, infilled
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from pipeline.tracking import logged_model
from pipeline.tracking.logged_model import PACKAGES, Checkpoint, is_wanted
from pipeline.tracking.mlflow import Tracked, track
from pipeline.tracking.record import Record
from pipeline.tracking.store import local_uri

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def tracked(record: Record, checkpoint: Checkpoint | None) -> Tracked:
    return track(record, uri="local", experiment="names", checkpoint=checkpoint)


def models() -> list[LoggedModel]:
    client = MlflowClient(tracking_uri=local_uri())
    experiment = client.get_experiment_by_name("names")
    assert experiment is not None
    return list(client.search_logged_models([experiment.experiment_id]))


def outputs(run_id: str) -> list[str]:
    found = MlflowClient(tracking_uri=local_uri()).get_run(run_id).outputs
    return [output.model_id for output in found.model_outputs]


def test_it_predicts_what_infill_prints(
    project: Path, record: Callable[..., Record], checkpoint: Checkpoint
) -> None:
    made = tracked(record(), checkpoint)
    assert made.model is not None
    assert made.model.new
    (model,) = models()
    assert (model.model_id, model.status) == (made.model.model_id, "READY")
    assert outputs(made.run_id) == [model.model_id]
    for uri in (f"runs:/{made.run_id}/model", f"models:/{model.model_id}"):
        check_predictions(uri, local_uri(), checkpoint)


def test_the_same_checkpoint_is_there_once(
    project: Path,
    record: Callable[..., Record],
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = tracked(record(), checkpoint)
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", None)
    again = tracked(record(), checkpoint)
    other = tracked(record(fingerprint="e" * 64, tags={"fingerprint": "e" * 64}), checkpoint)
    assert first.model is not None
    assert other.run_id != first.run_id == again.run_id
    assert again.model == other.model == replace(first.model, new=False)
    assert outputs(first.run_id) == outputs(other.run_id) == [first.model.model_id]


def test_another_configuration_is_another_model(
    project: Path, record: Callable[..., Record], checkpoint: Checkpoint
) -> None:
    tracked(record(), checkpoint)
    made = tracked(record(), replace(checkpoint, revision="0" * 64))
    assert len(models()) == len(outputs(made.run_id)) == 2


def test_without_a_checkpoint_nothing_is_logged_and_what_is_there_stays(
    project: Path, record: Callable[..., Record], checkpoint: Checkpoint
) -> None:
    assert tracked(record(), None).model is None
    assert models() == []
    made = tracked(record(), checkpoint)
    tracked(record(), None)
    assert len(models()) == len(outputs(made.run_id)) == 1


def test_stopped_at_any_call_the_next_pass_completes_one_model(
    project: Path,
    record: Callable[..., Record],
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = ("create_logged_model", "log_model_artifacts", "finalize_logged_model", "log_outputs")
    for call in calls:
        done = getattr(MlflowClient, call)

        def stop(*args: Any, done: Any = done, **kwargs: Any) -> None:
            done(*args, **kwargs)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, call, stop)
            with pytest.raises(KeyboardInterrupt):
                tracked(record(), checkpoint)
    made = tracked(record(), checkpoint)
    assert made.model is not None
    assert not made.model.new
    assert [model.status for model in models()] == ["READY"]
    assert outputs(made.run_id) == [made.model.model_id]


def test_auto_is_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged_model, "MOST_BYTES", 1000)
    asked = [is_wanted(setting, size) for setting in ("auto", "always") for size in (1000, 1001)]
    assert asked == [True, False, True, True]
    assert not is_wanted("never", 1)


def test_a_checkpoint_weighs_what_its_files_do(checkpoint: Checkpoint) -> None:
    files = [path for path in checkpoint.folder.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert checkpoint.num_bytes == sum(len(path.read_bytes()) for path in files)
    assert checkpoint.size == f"{checkpoint.num_bytes / 1e6:.1f} MB"


@pytest.mark.slow
def test_it_needs_its_requirements_alone(
    project: Path, record: Callable[..., Record], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    made = tracked(record(), checkpoint)
    here = tmp_path / "elsewhere"
    here.mkdir()
    program = Path(__file__).with_name("load_alone.py").read_text()
    run = subprocess.run(
        [sys.executable, "-P", "-c", program, f"runs:/{made.run_id}/model", *PACKAGES],
        env=os.environ | {"MLFLOW_TRACKING_URI": local_uri(), "PYTHONPATH": ""},
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == infilled(checkpoint)
