"""A git clone of the project with tiny parameters, and what a user types in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tiny_project import PROJECT, TINY

from pipeline.config.edits import edit_yaml

SWEEP = [64]
SMALL = TINY | {"sweep": SWEEP}
"""A short sweep, as most of a tiny stage is the start of Python."""
ALL = {
    "fetch", "tokenizer", "pack", "train", "baseline", "evaluate", "real_text",
    "sample", "score",
    *(f"sweep_{stage}@{n}" for stage in ("sample", "score") for n in SWEEP),
    "report", "track", "publish",
}  # fmt: skip
"""Every stage but `check`."""
PERSON = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "t"), ("EMAIL", "t@example.org"))
}


def make_clone(folder: Path, changes: dict[str, Any]) -> Path:
    """A clone of the working tree, with leaves of params.yaml replaced by dotted key.

    Args:
        changes: beside SMALL.
    """
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, folder / name)
    edit_yaml(folder / "params.yaml", SMALL | changes)
    for command in ("init -q -b main", "add -A", "commit -q -m tiny"):
        subprocess.run(["git", *command.split()], cwd=folder, env=os.environ | PERSON, check=True)
    return folder


def run(folder: Path, *command: str, status: int = 0, **environment: str) -> str:
    """Run a command as in an activated environment; its output, both streams."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))
    }
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=kept | path | PERSON | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def ran(output: str) -> set[str]:
    """Names of the stages that DVC ran, but for `check`, which every other value reruns."""
    lines = [line for line in output.splitlines() if line.startswith("Running stage")]
    return {line.split("'")[1] for line in lines} - {"check"}


def runs(folder: Path) -> list:
    """The MLflow runs of the clone's own store; none where there is no store yet."""
    from mlflow.tracking import MlflowClient

    store = folder / ".store" / "mlflow" / "mlflow.db"
    if not store.exists():
        return []
    client = MlflowClient(f"sqlite:///{store}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments))
