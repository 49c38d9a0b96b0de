"""One run for one experiment, whatever happens in between."""

import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.errors import PipelineError
from pipeline.tracking.mlflow import MAX_METRICS, MAX_PARAMS, Tracked, run_name, track
from pipeline.tracking.record import Point, Record
from pipeline.tracking.store import create_database, local_uri, locked

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

MakeRecord = Callable[..., Record]
EXPERIMENT = "names"


def tracked(record: Record) -> Tracked:
    return track(record, uri="local", experiment=EXPERIMENT)


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=local_uri())


def only_run() -> Run:
    experiment = client().get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client().search_runs([experiment.experiment_id])
    return run


def history(key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, oldest first."""
    points = client().get_metric_history(only_run().info.run_id, key)
    return [(m.step, m.value) for m in sorted(points, key=lambda m: (m.timestamp, m.step))]


def with_value(record: Record, key: str, value: float) -> Record:
    points = [p._replace(value=value) if p.key == key else p for p in record.points]
    return replace(record, points=points)


def test_a_run_holds_everything(project: Path, record: MakeRecord) -> None:
    made = tracked(record())
    run = only_run()
    assert made.created
    assert (made.run_id, made.name) == (run.info.run_id, "0123456")
    assert run.info.status == "FINISHED"
    assert run.data.params == record().params
    assert run.data.tags.items() >= record().tags.items()
    assert run.data.metrics["gen_ppl"] == 12.5
    assert history("by_steps/gen_ppl") == [(4, 20.0), (16, 12.5)]
    assert history("train_loss") == [(10, 30.0), (20, 25.0)]
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("names", "c" * 32)
    assert {tag.key: tag.value for tag in data.tags}["data_commit"] == "c" * 32
    files = client().download_artifacts(run.info.run_id, "samples/4.jsonl")
    assert Path(files).read_text() == '{"text": "Ann"}\n'
    root = (project / ".store/mlflow/artifacts").as_uri()
    assert str(run.info.artifact_uri).startswith(f"{root}/")


def test_the_same_again_adds_nothing(project: Path, record: MakeRecord) -> None:
    first = tracked(record())
    before = only_run()
    again = tracked(record())
    after = only_run()
    assert (first.run_id, again.created) == (again.run_id, False)
    assert after.data.to_dictionary() == before.data.to_dictionary()
    assert history("train_loss") == [(10, 30.0), (20, 25.0)]
    assert len(after.inputs.dataset_inputs) == 1


@pytest.mark.parametrize("value", [1.0, 3.0])
def test_a_new_value_is_the_one_shown(
    project: Path, record: MakeRecord, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    # A clock that stands still, or goes back, is the worst case: MLflow then shows the larger.
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    tracked(record())
    tracked(with_value(record(), "by_steps/seconds", value))
    assert only_run().data.metrics["by_steps/seconds"] == value
    assert history("by_steps/seconds") == [(4, 0.5), (16, 2.0), (4, value), (16, value)]
    assert history("by_steps/gen_ppl") == [(4, 20.0), (16, 12.5)]


def test_a_value_may_return(project: Path, record: MakeRecord) -> None:
    for value in (2.0, 1.0, 2.0, 2.0):
        tracked(with_value(record(), "gen_ppl", value))
    assert history("gen_ppl") == [(0, 2.0), (0, 1.0), (0, 2.0)]
    assert only_run().data.metrics["gen_ppl"] == 2.0


def test_a_metric_that_is_gone_shows_nan_and_a_users_own_stays(
    project: Path, record: MakeRecord
) -> None:
    made = tracked(record())
    client().log_metric(made.run_id, "human_rating", 4.0)
    fewer = [point for point in record().points if point.key != "gen_ppl"]
    for _ in range(2):
        tracked(record(points=fewer))
    shown = only_run().data.metrics
    assert math.isnan(shown["gen_ppl"])
    assert shown["human_rating"] == 4.0
    assert len(history("gen_ppl")) == 2
    tracked(record())
    assert only_run().data.metrics["gen_ppl"] == 12.5


def test_what_is_no_finite_number_is_kept_once(project: Path, record: MakeRecord) -> None:
    points = [Point("train_loss", 1, math.inf), Point("train_loss", 2, math.nan)]
    for _ in range(2):
        tracked(record(points=points))
    (_, largest), (_, undefined) = history("train_loss")
    assert largest == sys.float_info.max
    assert math.isnan(undefined)


def test_more_than_one_batch(project: Path, record: MakeRecord) -> None:
    points = [Point("train_loss", step, float(step)) for step in range(2 * MAX_METRICS + 1)]
    params = {f"key{index}": "1" for index in range(MAX_PARAMS + 1)}
    tracked(record(points=points, params=params))
    assert len(history("train_loss")) == len(points)
    assert only_run().data.metrics["train_loss"] == 2 * MAX_METRICS
    assert only_run().data.params == params


def test_stopped_at_any_call_the_next_pass_completes_one_run(
    project: Path, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = ("create_run", "update_run", "log_batch", "log_inputs", "log_artifacts")
    for call in (*calls, "set_terminated"):
        done = getattr(MlflowClient, call)

        def stop(*args: Any, done: Any = done, **kwargs: Any) -> None:
            done(*args, **kwargs)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, call, stop)
            with pytest.raises(KeyboardInterrupt):
                tracked(record(tags=record().tags | {"stopped_after": call}))
        assert only_run().data.tags["fingerprint"] == record().fingerprint
    assert tracked(record()).created is False
    assert only_run().info.status == "FINISHED"
    assert history("train_loss") == [(10, 30.0), (20, 25.0)]
    assert only_run().data.metrics["gen_ppl"] == 12.5


def test_another_experiment_is_another_run(project: Path, record: MakeRecord) -> None:
    one = tracked(record())
    other = tracked(record(fingerprint="e" * 64, tags=record().tags | {"fingerprint": "e" * 64}))
    assert one.run_id != other.run_id


def test_names() -> None:
    tags = {"fingerprint": "abcdef0123456789"}
    assert run_name(tags) == "run-abcdef01"
    assert run_name(tags | {"git_commit": "0123456789"}) == "0123456"
    assert run_name(tags | {"git_commit": "0123456789", "dvc_exp_name": "puffy"}) == "puffy"


def test_a_name_follows_dvc_and_a_users_own_stays(project: Path, record: MakeRecord) -> None:
    tags = record().tags
    assert tracked(record()).name == "0123456"
    assert tracked(record(tags=tags | {"git_commit": "fedcba9876"})).name == "fedcba9"
    assert tracked(record(tags=tags | {"dvc_exp_name": "puffy-cat"})).name == "puffy-cat"
    # As after `dvc exp apply`: DVC gives no name any more.
    made = tracked(record())
    assert made.name == "puffy-cat"
    client().update_run(made.run_id, name="the good one")
    assert tracked(record(tags=tags | {"dvc_exp_name": "other"})).name == "the good one"


def test_a_deleted_run_stays_deleted(project: Path, record: MakeRecord) -> None:
    made = tracked(record())
    client().delete_run(made.run_id)
    assert tracked(record()).run_id != made.run_id


def test_a_deleted_experiment_is_named(project: Path, record: MakeRecord) -> None:
    experiment = client().create_experiment(EXPERIMENT)
    client().delete_experiment(experiment)
    with pytest.raises(PipelineError, match=r"tracking\.experiment: 'names' was deleted"):
        tracked(record())


def test_an_experiment_of_mlflows_own_page_is_tracked_and_one_kept_elsewhere_is_not(
    project: Path, record: MakeRecord
) -> None:
    shutil.rmtree(project / ".store", ignore_errors=True)
    with locked():
        create_database(local_uri())
    assert track(record(), uri="local", experiment="Default").created
    elsewhere = (project / "mlruns").as_uri()
    client().create_experiment(EXPERIMENT, artifact_location=elsewhere)
    with pytest.raises(PipelineError, match="something else made it, or the project has moved"):
        tracked(record())


def test_a_moved_project_is_not_given_artifacts_elsewhere(
    project: Path, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked(record())
    moved = project.rename(project.with_name("moved"))
    monkeypatch.setenv("DVC_ROOT", str(moved))
    with pytest.raises(PipelineError, match="the project has moved"):
        tracked(record())
    assert not project.exists()
