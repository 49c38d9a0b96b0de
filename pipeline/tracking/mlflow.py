"""One MLflow run for one experiment: found by its fingerprint, completed, never duplicated.

Processes of one project exclude each other by a lock in its store, whatever the tracking URI.
Two machines that track the same experiment on one server at the same moment may both create its
run: MLflow has no unique key to prevent it. Later passes then update the older of the two.
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import scratch_folder
from pipeline.tracking.logged_model import Checkpoint, Logged, log_model
from pipeline.tracking.record import Point, Record
from pipeline.tracking.store import (
    artifact_root,
    connected,
    create_database,
    local_uri,
    locked,
    redact,
    tracking_uri,
)
from pipeline.tracking.view import KIND, experiment_tags

# MLflow's limits for one batch.
MAX_METRICS = 1000
MAX_PARAMS = 100
# MLflow's too; an Oxen commit id has 32 characters, the SHA-256 of bundled files 64.
MAX_DIGEST = 36
# The metrics that this project logged; a user's own in the same run are left alone.
METRICS_TAG = "metric_keys"


@dataclass(frozen=True)
class Tracked:
    """The run that holds an experiment; `uri` without its password, `model` if it was asked for."""

    run_id: str
    name: str
    experiment: str
    uri: str
    created: bool
    model: Logged | None


def track(
    record: Record, *, uri: str, experiment: str, checkpoint: Checkpoint | None = None
) -> Tracked:
    """Bring the run of `record` to exactly what `record` says; safe to kill and to repeat.

    A run that a killed process left behind is taken up again. Parameters, tags and artifacts are
    overwritten, and metrics get a point only where the value changed: MLflow keeps the earlier one
    in the history and shows the later. A metric that is gone shows NaN.

    Args:
        record: what the run holds.
        uri: `tracking.uri` of params.yaml; MLFLOW_TRACKING_URI wins.
        experiment: MLflow's experiment, created if missing.
        checkpoint: what to log as a model, if anything; one that the run has stays.
    Raises:
        PipelineError: the store cannot be used.
    """
    uri = tracking_uri(uri)
    with locked():
        create_database(uri)
        with connected(uri) as client:
            experiment_id = _experiment(client, uri, experiment)
            _show(client, experiment_id)
            run = _find(client, experiment_id, record.fingerprint)
            created = run is None
            if run is None:
                # With its fingerprint from the start: without one it would never be found again.
                tags = {"fingerprint": record.fingerprint}
                name = run_name(record.tags)
                run = client.create_run(experiment_id, tags=tags, run_name=name)
            model = _complete(client, run, record, checkpoint)
            name = client.get_run(run.info.run_id).info.run_name
    return Tracked(run.info.run_id, name, experiment, redact(uri), created, model)


def run_name(tags: dict[str, str]) -> str:
    """The DVC experiment's name, else the short git hash, else the start of the fingerprint."""
    if name := tags.get("dvc_exp_name"):
        return name
    commit = tags.get("git_commit")
    return commit[:7] if commit else f"run-{tags['fingerprint'][:8]}"


def _experiment(client: Any, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    root = artifact_root(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=root))
        except MlflowException as error:
            # Another machine was faster.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise PipelineError(
            f"tracking.experiment: {name!r} was deleted in MLflow: restore it "
            f"(mlflow experiments restore -x {found.experiment_id}) or choose another name"
        )
    # MLflow's own page and its Default keep theirs in folders of the same root.
    if uri == local_uri() and not f"{found.artifact_location}/".startswith(f"{root}/"):
        raise PipelineError(
            f"tracking.experiment: {name!r} keeps its artifacts in {found.artifact_location}, not "
            f"in {root}: something else made it, or the project has moved. Move it back, or choose "
            "another name"
        )
    return str(found.experiment_id)


def _show(client: Any, experiment_id: str) -> None:
    """Have MLflow's page show the experiment well; a kind that a person chose stays."""
    tags = client.get_experiment(experiment_id).tags
    for key, value in experiment_tags().items():
        if tags.get(key) != value and not (key == KIND and key in tags):
            client.set_experiment_tag(experiment_id, key, value)


def _find(client: Any, experiment_id: str, fingerprint: str) -> Any | None:
    runs = client.search_runs(
        [experiment_id],
        f"tags.fingerprint = '{fingerprint}'",
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return runs[0] if runs else None


def _complete(
    client: Any, run: Any, record: Record, checkpoint: Checkpoint | None
) -> Logged | None:
    from mlflow.entities import Param, RunTag

    run_id = run.info.run_id
    client.update_run(run_id, status="RUNNING", name=_new_name(run, record))
    history = _history(client, run)
    keys = {point.key for point in record.points} | set(history)
    tags = record.tags | {METRICS_TAG: " ".join(sorted(keys))}
    for part in _batches(map(Param, record.params, record.params.values()), MAX_PARAMS):
        client.log_batch(run_id, params=part)
    for part in _batches(map(RunTag, tags, tags.values()), MAX_PARAMS):
        client.log_batch(run_id, tags=part)
    # Of sets that are not scored any more; tags that a person gave stay.
    for key in run.data.tags:
        if key.startswith(("zero_shot/", "params.zero_shot.")) and key not in tags:
            client.delete_tag(run_id, key)
    # MLflow updates a metric's latest value once a batch, so a key's points stay together.
    for part in _batches(iter(_news(record.points, history)), MAX_METRICS):
        client.log_batch(run_id, metrics=part)
    client.log_inputs(run_id, datasets=[dataset_input(record.provenance)])
    _log_artifacts(client, run_id, record)
    model = log_model(client, run, checkpoint) if checkpoint else None
    client.set_terminated(run_id, status="FINISHED")
    return model


def _new_name(run: Any, record: Record) -> str:
    """What the run is called now: a name given by hand stays, and so does an experiment's.

    The same experiment is tracked once more without DVC's name after `dvc exp apply`.
    """
    old = {"fingerprint": record.fingerprint} | run.data.tags
    by_hand = "git_commit" in old and run.info.run_name != run_name(old)
    return str(run.info.run_name) if by_hand else run_name(old | record.tags)


def _history(client: Any, run: Any) -> dict[str, list[Any]]:
    """All points of this project's metrics in `run`, by key."""
    ours = run.data.tags.get(METRICS_TAG, "").split()
    return {
        key: client.get_metric_history(run.info.run_id, key)
        for key in ours
        if key in run.data.metrics
    }


def _news(points: Iterable[Point], history: dict[str, list[Any]]) -> list[Any]:
    """The metrics to log so that the newest value at each step is that of `points`.

    MLflow takes the value with the greatest step, then time, then value for the latest one, so a
    new value must be later than all before it: at the same millisecond the larger would win.
    """
    from mlflow.entities import Metric

    logged = sorted(chain.from_iterable(history.values()), key=attrgetter("timestamp"))
    shown = {(metric.key, metric.step): metric.value for metric in logged}
    wanted = {(point.key, point.step): _stored(point.value) for point in points}
    wanted |= dict.fromkeys(shown.keys() - wanted.keys(), math.nan)
    now = max([time.time_ns() // 1_000_000, *(metric.timestamp + 1 for metric in logged)])
    return [
        Metric(key, value, now, step)
        for (key, step), value in wanted.items()
        if (key, step) not in shown or not _same(shown[key, step], value)
    ]


def _stored(value: float) -> float:
    """As MLflow stores it: infinity becomes the largest float."""
    return value if math.isnan(value) else max(-sys.float_info.max, min(sys.float_info.max, value))


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def dataset_input(provenance: Mapping[str, Any]) -> Any:
    """A version of the data, named by its repository; its digest is the commit."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    repo = redact(provenance["repo"])
    on_server = repo.startswith(("http://", "https://"))
    num_rows = {file["path"]: file["rows"] for file in provenance["files"]}
    return DatasetInput(
        Dataset(
            name=provenance["repo"].rstrip("/").rpartition("/")[2],
            digest=provenance["commit"][:MAX_DIGEST],
            source_type="http" if on_server else "local",
            source=json.dumps({"url" if on_server else "uri": repo}),
            profile=json.dumps({"num_rows": num_rows}),
        ),
        tags=[
            InputTag("mlflow.data.context", "training"),
            InputTag("data_commit", provenance["commit"]),
            InputTag("data_revision", provenance["revision"]),
        ],
    )


def _log_artifacts(client: Any, run_id: str, record: Record) -> None:
    with scratch_folder() as folder:
        for path, file in record.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / path)
        for path, text in record.texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        client.log_artifacts(run_id, str(folder))


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while part := list(islice(items, size)):
        yield part
