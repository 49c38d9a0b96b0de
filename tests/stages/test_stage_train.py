import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_project import PROJECT, TINY, stage_command, write_params

from pipeline.device import why_not_compiled
from pipeline.environment import lock_sha256

INPUTS = ("artifacts/packed", "artifacts/tokenizer")
OUTS = (
    "artifacts/checkpoint",
    "artifacts/snapshots.jsonl",
    "artifacts/runs/train.json",
    "reports/loss.csv",
)
RESULTS = (
    "artifacts/checkpoint/model.safetensors",
    "artifacts/checkpoint/config.json",
    "artifacts/snapshots.jsonl",
    "reports/loss.csv",
)
COMMAND = stage_command("train", *INPUTS, *OUTS)


def start() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        COMMAND, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(PROJECT)}
    )


def clear_outs() -> None:
    """What DVC does before it runs a stage."""
    for out in map(Path, OUTS):
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)


def results() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in RESULTS}


def finish(*, resumes: bool = False) -> str:
    """Train to the end; with `resumes`, from a checkpoint and not from the start."""
    clear_outs()
    process = start()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert (re.search(r"\| 0/\d+ ", errors) is None) == resumes, errors
    return errors


def states() -> list[Path]:
    return list(Path(".store/train").glob("train-*/state.pt"))


def kill_when(condition, patience: float = 60) -> bool:
    """Start training and kill -9 once `condition()` holds; False if it ended first."""
    clear_outs()
    process = start()
    deadline = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            process.kill()
            break
    process.communicate()
    return process.returncode == -signal.SIGKILL


def writing_checkpoint() -> bool:
    return any(Path(".store/train").glob("train-*/.state.pt.*.partial"))


def copying_to_outs() -> bool:
    return Path("artifacts/checkpoint/config.json").exists()


def reached(step: int):
    """Whether the last checkpoint is of this step or a later one."""

    def condition() -> bool:
        return any(torch.load(path, weights_only=True)["step"] >= step for path in states())

    return condition


def test_training_ends_with_its_outs_and_no_state(tiny):
    errors = finish()
    assert "train: 100%" in errors
    run = json.loads(Path("artifacts/runs/train.json").read_text())
    assert run["num_tokens"] == 40 * 16 * 16
    assert run["device"] == "cpu"
    assert run["lock_sha256"] == lock_sha256()
    lines = Path("reports/loss.csv").read_text().splitlines()
    assert lines[0] == "step,train_loss,eval_loss,lr"
    assert lines[-1].startswith("40,")
    snapshots = [
        json.loads(line) for line in Path("artifacts/snapshots.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in snapshots] == [20, 40]
    assert all(len(row["texts"]) == 2 for row in snapshots)
    assert list(Path(".store/train").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sedd", "embedding"])
def test_killed_training_ends_like_uninterrupted_training(tiny, method):
    """Kills inside a checkpoint write, between checkpoints, and inside the copy to the outs."""
    # Of embedding diffusion with the clock that learns.
    values = TINY | {"method": method, "embedding.bound.clock": "nats"}
    write_params(tiny, values)
    finish()
    expected = results()
    write_params(tiny, values | {"train.checkpoint_every": 1})
    assert kill_when(writing_checkpoint)
    assert kill_when(lambda: bool(states()))
    # The copy takes milliseconds: a run that wins the race ends, and the next one is tried.
    assert any(kill_when(copying_to_outs) for _ in range(10))
    assert states()
    finish(resumes=True)
    assert results() == expected


STARTER = """
import pathlib, psutil, subprocess, sys, time
subprocess.Popen(sys.argv[2:], stderr=subprocess.DEVNULL)
def imports():
    children = psutil.Process().children(recursive=True)
    return any("libtorch" in map.path for child in children for map in child.memory_maps())
def trains():
    return list(pathlib.Path(".store/train").glob("*/state.pt"))
while not globals()[sys.argv[1]](): time.sleep(0.005)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "shell"),
    [
        ("imports", []),
        ("trains", ["sh", "-c", '"$0" "$@"; exit']),
    ],
)
def test_a_run_whose_starter_died_keeps_its_state_for_the_next(tiny, when, shell):
    """After kill -9 of DVC its stage lives on, and what it writes is deleted by the next run."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-W", "ignore", "-c", STARTER, when, *shell, *COMMAND]
    subprocess.run(command, env=environment, check=True)
    deadline = time.monotonic() + 60
    while not Path("artifacts/runs/train.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while "in use" in subprocess.run(
        [sys.executable, "-c", "from pipeline.cli import app; app()", "clean"],
        env=environment, capture_output=True, text=True, check=True,
    ).stdout:  # fmt: skip
        time.sleep(0.1)
    expected = results()
    assert states()
    finish(resumes=True)
    assert results() == expected
    assert not states()


@pytest.mark.slow
def test_twenty_random_kills_change_nothing(tiny):
    write_params(tiny, TINY | {"train.num_steps": 400, "train.checkpoint_every": 1})
    finish()
    expected = results()
    chance = random.Random(0)
    killed = 0
    while killed < 18:
        step = chance.randrange(1, 400)
        moment = writing_checkpoint if killed % 4 == 0 else reached(step)
        killed += kill_when(moment)
    while killed < 20:
        killed += kill_when(copying_to_outs)
    finish(resumes=True)
    assert results() == expected


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_ends_and_the_next_run_goes_on(tiny, number):
    write_params(tiny, TINY | {"train.num_steps": 500, "train.checkpoint_every": 1000})
    process = start()
    for line in process.stderr:
        if "train:" in line:
            break
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the next run goes on from there" in errors
    assert "Traceback" not in errors
    assert states()
    step = int(errors.split("stopped at step ")[1].split()[0])
    assert 0 < step < 500
    assert not Path("artifacts/checkpoint").exists()
    assert f"{step}/500" in finish(resumes=True)


def test_a_second_trainer_is_refused(tiny):
    write_params(tiny, TINY | {"train.num_steps": 100_000})
    first = start()
    try:
        while not states():
            assert first.poll() is None
            time.sleep(0.05)
        second = start()
        _, errors = second.communicate(timeout=60)
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 1
    assert "another process is training this already" in errors


def test_parameters_are_checked_first(tiny, run_stage):
    write_params(tiny, TINY | {"train.lr": -1, "sweep": [0], "steps": [4]})
    done = run_stage("train", *INPUTS, *OUTS)
    assert done.returncode == 1
    for line in (
        "params.yaml: train.lr: Input should be greater than 0 (got -1)",
        "params.yaml: sweep.0: Input should be greater than or equal to 1 (got 0)",
        "params.yaml: steps: Input should be a valid integer (got [4])",
    ):
        assert line in done.stderr
    assert not Path(".store").exists()


def test_an_update_that_breaks_the_weights_leaves_no_checkpoint(tiny, run_stage):
    broken = {"train.lr": 1e30, "train.num_steps": 1, "train.warmup_steps": 0}
    write_params(tiny, TINY | broken)
    done = run_stage("train", *INPUTS, *OUTS)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.match(r"error: training diverged: the .* is \w+ at step 1; lower lr or clip$", last)
    assert not any(Path(out).exists() for out in OUTS)


@pytest.mark.slow
def test_activation_checkpointing_changes_no_byte_and_precision_does(tiny):
    finish()
    expected = results()
    write_params(tiny, TINY | {"train.activation_checkpointing": True})
    finish()
    assert results() == expected
    write_params(tiny, TINY | {"train.precision": "bfloat16", "train.checkpoint_every": 1})
    assert kill_when(lambda: bool(states()))
    finish(resumes=True)
    narrow = results()
    clear_outs()
    finish()
    assert results() == narrow
    assert narrow["artifacts/checkpoint/model.safetensors"] != expected[RESULTS[0]]
    last, exact = (
        float(found["reports/loss.csv"].split()[-1].split(b",")[2]) for found in (narrow, expected)
    )
    assert last == pytest.approx(exact, rel=0.01)


@pytest.mark.slow
def test_a_compiled_run_that_was_killed_ends_like_an_uninterrupted_one(tiny):
    if reason := why_not_compiled(torch.device("cpu")):
        pytest.skip(reason)
    finish()
    eager = results()
    write_params(tiny, TINY | {"train.compile": True, "train.checkpoint_every": 1})
    finish()
    expected = results()
    assert kill_when(lambda: bool(states()))
    finish(resumes=True)
    assert results() == expected
    last, exact = (
        float(found["reports/loss.csv"].split()[-1].split(b",")[2]) for found in (expected, eager)
    )
    assert last == pytest.approx(exact, rel=1e-3)


def test_compile_without_a_compiler_is_said(tiny, run_stage, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    write_params(tiny, TINY | {"train.compile": True})
    done = run_stage("train", *INPUTS, *OUTS)
    assert done.returncode == 1
    assert "train.compile: there is no compiler (no-such-compiler) in PATH" in done.stderr
    assert not Path("artifacts/checkpoint").exists()
