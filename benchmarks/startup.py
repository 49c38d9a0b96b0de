"""Commands as a user types them: their start, and an experiment with other sampling steps."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import Machine
from benchmarks.rows import Check, Figure, Plan, Row
from pipeline.errors import PipelineError

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
RUN_SECONDS, HELP_SECONDS, STAGE_SECONDS = 30.0, 0.3, 1.0
# What git leaves out and a finished pipeline needs.
FINISHED = ("artifacts", "reports", ".store", ".dvc/cache")
# Not copied with the rest: a tracking store knows where it lies, and is no one's elsewhere.
TRACKED = PROJECT / ".store" / "mlflow"


def seconds_of(command: Sequence[str], folder: Path) -> float:
    """Seconds that a command takes.

    Raises:
        PipelineError: it fails.
    """
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise PipelineError(f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-2000:]}")
    return seconds


def start_up(plan: Plan, machine: Machine) -> list[Row]:
    """The rows start_up, which is `sedd --help`, and start_up_stage: one with nothing to do."""
    runs = plan.runs(11, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(PROJECT / "params.yaml", folder)
        commands = {
            "help": [str(BIN / "sedd"), "--help"],
            "stage": [sys.executable, "-m", "stages.fetch", "data", "provenance.json"],
        }
        found: dict[str, list[float]] = {what: [] for what in commands}
        # The first run reads files from the disk, and gives the stage its outs.
        for run in range(runs + 1):
            for what, command in commands.items():
                seconds = seconds_of(command, folder)
                found[what] += [seconds] if run else []
                plan.on_run()
    return [
        time_row("start_up", found["help"], HELP_SECONDS, "`sedd --help`"),
        time_row(
            "start_up_stage", found["stage"], STAGE_SECONDS,
            "`python -m stages.fetch` with its outs in place",
        ),
    ]  # fmt: skip


def time_row(name: str, seconds: list[float], bar: float, note: str) -> Row:
    """A row that has a time to reach and no opponent."""
    ours = Figure(seconds)
    check = Check(f"{bar:g} s", ours.median <= bar)
    return Row(name, "s", (check,), ours=ours, less_is_better=True, notes=(note,))


def copied_project(folder: Path) -> None:
    """Copy what git tracks and what a finished pipeline wrote to a repository of its own."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for path in tracked:
        if (PROJECT / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / path, folder / path)
    for path in FINISHED:
        if (PROJECT / path).is_dir():
            shutil.copytree(
                PROJECT / path, folder / path, symlinks=True, dirs_exist_ok=True,
                ignore=lambda place, names: [n for n in names if Path(place, n) == TRACKED],
            )  # fmt: skip
    who = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "bench"]):
        subprocess.run(["git", *who, *command], cwd=folder, check=True)


def exp_run_1024(plan: Plan, machine: Machine) -> list[Row]:
    """The row exp_run_1024, in a copy of a project whose pipeline has run."""
    if not ((PROJECT / "dvc.lock").is_file() and (PROJECT / "reports" / "metrics.json").is_file()):
        return [Row("exp_run_1024", "s", notes=("not run: first `make repro` in this folder",))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copied_project(folder)
        dvc = str(BIN / "dvc")
        # Nothing else may be stale: `repro` brings all but the new step count up to date.
        seconds_of([dvc, "repro"], folder)
        seconds_of([dvc, "repro", "-s", "-f", "track"], folder)
        seconds = seconds_of([dvc, "exp", "run", "-S", "steps=1024"], folder)
        plan.on_run()
    note = "`dvc exp run -S steps=1024` in a copy of the project"
    return [time_row("exp_run_1024", [seconds], RUN_SECONDS, note)]
