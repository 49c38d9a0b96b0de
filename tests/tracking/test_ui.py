"""The command line of MLflow's page."""

import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.tracking.ui import HOST, PORT, pick_port, ui_command


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_both_stores_are_explicit(tmp_path: Path) -> None:
    command = ui_command("local", 5000)
    assert command[0] == "env"
    assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in command
    assert command[command.index(sys.executable) :][:4] == [sys.executable, "-m", "mlflow", "ui"]
    options = dict(zip(command[-12::2], command[-11::2], strict=True))
    assert options == {
        "--host": "127.0.0.1",
        "--port": "5000",
        "--workers": "1",
        "--backend-store-uri": f"sqlite:///{tmp_path}/.store/mlflow/mlflow.db",
        "--default-artifact-root": (tmp_path / ".store/mlflow/artifacts").as_uri(),
        "--artifacts-destination": (tmp_path / ".store/mlflow/artifacts").as_uri(),
    }


def test_a_password_is_on_no_command_line() -> None:
    assert "s3cret" not in " ".join(ui_command("postgresql://me:s3cret@host/db", 5000))


def test_a_server_has_a_page_of_its_own() -> None:
    with pytest.raises(PipelineError, match=r"http://\*\*\*@host:5000: open that address"):
        ui_command("http://me:s3cret@host:5000", 5000)


def test_another_port_where_something_listens() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # of another program: then it is taken just as well
            other.bind((HOST, PORT))
        other.listen()
        port = pick_port()
        assert port != PORT
    with socket.socket() as free:
        free.bind((HOST, port))
