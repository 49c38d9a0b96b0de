"""MLflow's page over the runs."""

import os
import socket
import sys

from pipeline.config.params import load_params
from pipeline.errors import PipelineError
from pipeline.tracking.store import (
    artifact_root,
    connected,
    create_database,
    locked,
    redact,
    tracking_uri,
)
from pipeline.tracking.view import address

HOST = "127.0.0.1"
PORT = 5000


def pick_port() -> int:
    """PORT, or another one where something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, PORT))
        except OSError:
            probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def ui_command(uri: str, port: int) -> list[str]:
    """The command line of MLflow's own server over a database of runs.

    An address with a password is not in it, where every user of the machine could read it: then
    MLFLOW_BACKEND_STORE_URI must hold it.

    Args:
        uri: `tracking.uri` of params.yaml; MLFLOW_TRACKING_URI wins.
        port: where it listens, on this machine alone.
    Raises:
        PipelineError: the URI is no database; a server shows its runs itself.
    """
    uri = tracking_uri(uri)
    root = artifact_root(uri)
    if root is None:
        raise PipelineError(f"the runs are kept by {redact(uri)}: open that address in a browser")
    # One worker and no jobs: up in 9 s on a laptop.
    return [
        *("env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true"),
        *(sys.executable, "-m", "mlflow", "ui"),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
        *(("--backend-store-uri", uri) if redact(uri) == uri else ()),
        *("--default-artifact-root", root, "--artifacts-destination", root),
    ]


def main() -> None:
    """Become MLflow's server."""
    tracking = load_params().tracking
    uri = tracking.uri
    port = pick_port()
    command = ui_command(uri, port)
    # MLflow's server and a track stage must not both create the database.
    with locked():
        create_database(tracking_uri(uri))
    with connected(tracking_uri(uri)) as client:
        found = client.get_experiment_by_name(tracking.experiment)
    page = address(f"http://{HOST}:{port}", found and found.experiment_id)
    print(f"MLflow at {page} (Ctrl-C ends it)", file=sys.stderr)
    os.execvpe(command[0], command, os.environ | {"MLFLOW_BACKEND_STORE_URI": tracking_uri(uri)})
