"""The same against a real MLflow server."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from infills import check_predictions
from mlflow import MlflowClient

from pipeline.tracking.compare import runs
from pipeline.tracking.logged_model import Checkpoint
from pipeline.tracking.mlflow import track
from pipeline.tracking.record import Point, Record

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
START_SECONDS = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    raise TimeoutError(f"{url} did not answer")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    """Host and port of an MLflow server with an empty store."""
    root = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_database, root / "mlflow.db")
    address = f"127.0.0.1:{free_port()}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", address.rpartition(":")[2]),
        *("--backend-store-uri", f"sqlite:///{root}/mlflow.db"),
        *("--artifacts-destination", (root / "artifacts").as_uri()),
    ]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"http://{address}/health", process)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def test_one_run_complete_and_updated(
    server: str,
    record: Callable[..., Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    uri = f"http://me:s3cret@{server}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    first = track(record(), uri="local", experiment="names")
    changed = [point for point in record().points if point.key != "gen_ppl"]
    changed.append(Point("gen_ppl", 0, 11.0))
    again = track(record(points=changed), uri="local", experiment="names")
    assert (first.created, again.created) == (True, False)
    assert again.uri == f"http://***@{server}"

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("names")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == first.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params == record().params
    assert run.data.metrics["gen_ppl"] == 11.0
    curve = client.get_metric_history(first.run_id, "by_steps/gen_ppl")
    assert [(point.step, point.value) for point in curve] == [(4, 20.0), (16, 12.5)]
    assert run.inputs.dataset_inputs[0].dataset.digest == "c" * 32
    assert [file.path for file in client.list_artifacts(first.run_id, "samples")] == [
        "samples/4.jsonl"
    ]
    (row,) = runs("local", "names")
    assert (row.name, row.gen_ppl) == ("0123456", 11.0)
    # Nothing local but the lock, and the password nowhere.
    assert [path.name for path in tmp_path.glob("project/.store/mlflow/*")] == []
    assert "s3cret" not in "".join(capfd.readouterr())
    assert "s3cret" not in str(run.to_dictionary())


def test_a_checkpoint_goes_there_once_and_comes_back_as_a_model(
    server: str,
    record: Callable[..., Record],
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    uri = f"http://me:s3cret@{server}"
    where = {"uri": uri, "experiment": "models"}
    made, again = (track(record(), checkpoint=checkpoint, **where) for _ in range(2))
    assert made.model is not None
    assert again.model is not None
    assert (made.model.new, again.model.new) == (True, False)
    assert again.model.model_id == made.model.model_id
    check_predictions(f"runs:/{made.run_id}/model", uri, checkpoint)
