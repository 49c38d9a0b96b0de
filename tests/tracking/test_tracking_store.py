"""Addresses, dead servers, and passwords that stay where they are."""

import socket
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from pipeline.errors import BusyError, PipelineError
from pipeline.tracking import store
from pipeline.tracking.store import (
    artifact_root,
    connected,
    create_database,
    database_missing,
    local_uri,
    locked,
    redact,
    tracking_uri,
)

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def connect(uri: str) -> None:
    with connected(uri):
        pass


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = f"sqlite:///{tmp_path}/.store/mlflow/mlflow.db"
    assert tracking_uri("local") == local == local_uri()
    assert tracking_uri("http://host:5000") == "http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other:1")
    assert tracking_uri("local") == "http://other:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "local")
    assert tracking_uri("http://host:5000") == local


def test_a_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "what? 100%20#1"))
    database = make_url(local_uri()).database
    assert database == str(tmp_path / "what? 100%20#1" / ".store/mlflow/mlflow.db")
    assert database_missing(local_uri())
    Path(database).parent.mkdir(parents=True)
    Path(database).touch()
    assert not database_missing(local_uri())


def test_only_databases_need_a_place_for_artifacts(tmp_path: Path) -> None:
    root = (tmp_path / ".store/mlflow/artifacts").as_uri()
    for uri in (local_uri(), "postgresql+psycopg2://host/db", "mysql://host/db"):
        assert artifact_root(uri) == root
    assert artifact_root("https://host") is None
    assert artifact_root("databricks") is None


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("at http://me:s3cret@host:1/x now", "at http://***@host:1/x now"),
        ("postgresql://me:s3/c@ret@host/db", "postgresql://***@host/db"),
        ("https://s3cret@host", "https://***@host"),
        ("postgresql://host/db?user=me&password=s3cret&a=b", None),
        ("https://host/x?api_key=s3cret", "https://host/x?api_key=***"),
        ("https://host:80/x and me@home", "https://host:80/x and me@home"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_redact(text: str, redacted: str | None) -> None:
    assert redact(text) == (redacted or "postgresql://host/db?user=me&password=***&a=b")


def test_a_dead_server_is_named_within_seconds(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    uri = f"http://me:s3cret@127.0.0.1:{port}"
    started = time.monotonic()
    with pytest.raises(PipelineError) as caught:
        connect(uri)
    assert time.monotonic() - started < 30
    message = str(caught.value)
    assert f"http://***@127.0.0.1:{port}" in message
    assert "tracking.uri" in message
    assert "MLFLOW_TRACKING_URI" in message
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_never_answers_is_named_within_seconds(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(store.FIRST_REQUEST, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    started = time.monotonic()
    with pytest.raises(PipelineError, match="timed out"):
        connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("postgresql://me:s3cret@127.0.0.1:1/db", "psycopg"),
        ("sqlite:////no/such/folder/mlflow.db", "unable to open database file"),
        ("nonsense://host", "nonsense"),
        ("http://host:port", "host"),
    ],
)
def test_an_address_that_cannot_work_is_named(uri: str, cause: str) -> None:
    with pytest.raises(PipelineError, match=cause) as caught:
        connect(uri)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_the_message_says_where_the_address_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")
    with pytest.raises(PipelineError, match="address comes from MLFLOW_TRACKING_URI"):
        connect(tracking_uri("local"))


def test_a_database_appears_whole_and_what_a_kill_left_goes(tmp_path: Path) -> None:
    folder = tmp_path / ".store" / "mlflow"
    folder.mkdir(parents=True)
    left_over = folder / ".mlflow.db.12345.partial"
    left_over.write_text("half a migration")
    assert database_missing(local_uri())
    with locked():
        create_database(local_uri())
        create_database(local_uri())
    assert not database_missing(local_uri())
    assert {path.name for path in folder.iterdir()} == {"mlflow.db"}
    with connected(local_uri()) as client:
        assert client.get_experiment("0").artifact_location == f"{artifact_root(local_uri())}/0"


def test_a_lock_that_never_opens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.files.PATIENCE", (0.1, 0.1))
    with locked(), pytest.raises(BusyError, match=r"used .*\.store/mlflow for 0 s"), locked():
        pass
