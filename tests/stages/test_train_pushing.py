"""Snapshots sent while training, by a process of its own."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from pyarrow import dataset
from test_stage_train import INPUTS, OUTS, RESULTS
from tiny_project import PROJECT, TINY, stage_command, write_params

from benchmarks.oxen_server import free_port
from pipeline.config.data import Patience
from pipeline.files import read_jsonl, read_object
from pipeline.oxen.local.snapshot import log_of
from pipeline.oxen.opening import open_repository
from pipeline.publishing.spool import waiting_spools

PATIENCE = Patience(connect_seconds=1, stall_seconds=5, retries=0)
PUSHING = TINY | {
    "publish.during_training": True,
    "publish.repo": "published",
    "oxen.connect_seconds": 1,
    "oxen.retries": 0,
}


def start() -> "subprocess.Popen[str]":
    for out in map(Path, OUTS):
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
    return subprocess.Popen(
        stage_command("train", *INPUTS, *OUTS),
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )


def train() -> str:
    process = start()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return errors


def results() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in RESULTS}


def published() -> list[Path]:
    return sorted(Path("published/snapshots").glob("*/*.parquet"))


@pytest.mark.slow
def test_artifacts_and_fingerprint_are_the_same_with_and_without(tiny):
    train()
    expected, run = results(), read_object(Path("artifacts/runs/train.json"))
    write_params(tiny, PUSHING)
    errors = train()
    assert "snapshots of training" not in errors
    assert results() == expected
    fingerprint = read_object(Path("artifacts/runs/train.json"))["fingerprint"]
    assert fingerprint == run["fingerprint"]
    assert [path.stem for path in published()] == ["20", "40"]
    assert {path.parent.name for path in published()} == {fingerprint}
    rows = dataset.dataset(published()).to_table().to_pylist()
    for snapshot in read_jsonl(Path("artifacts/snapshots.jsonl")):
        ours = [row for row in rows if row["step"] == snapshot["step"]]
        assert [row["text"] for row in ours] == snapshot["texts"]
        assert [row["ids"] for row in ours] == snapshot["ids"]
        assert {row["loss"] for row in ours} == {snapshot["loss"]}
        bound = snapshot["eval_loss"] / 16
        assert {row["bound_integral_nats_per_position"] for row in ours} == {bound}
    assert list(Path(".store/train").iterdir()) == []


@pytest.mark.slow
def test_each_step_is_there_once_after_a_kill_and_a_resume(tiny):
    write_params(tiny, PUSHING | {"train.num_steps": 200, "train.checkpoint_every": 30})
    process = start()
    while process.poll() is None and not list(Path("published/snapshots").glob("*/40.parquet")):
        time.sleep(0.005)
    process.kill()
    # Its standard error is shared with the process that sends, which ends by itself.
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    before = {path: path.read_bytes() for path in published()}
    assert len(before) >= 2
    train()
    assert sorted(int(path.stem) for path in published()) == list(range(20, 201, 20))
    assert all(path.read_bytes() == content for path, content in before.items())
    messages = [commit.message for commit in log_of(Path("published").resolve())]
    assert len(messages) == len(set(messages)) == 10
    assert waiting_spools() == []


@pytest.mark.slow
def test_a_server_that_is_away_is_said_once_and_nothing_is_lost(tiny):
    url = f"http://127.0.0.1:{free_port()}/ns/snapshots"
    write_params(tiny, PUSHING | {"publish.repo": url})
    errors = train()
    assert errors.count("snapshots of training: ") == 1
    assert "`sedd publish --flush` sends what waits" in errors
    [spool] = waiting_spools()
    assert [item.message.split()[3] for item in spool.items()] == ["20", "40"]


@pytest.mark.slow
def test_a_repository_that_cannot_be_is_said_and_training_goes_on(tiny):
    write_params(tiny, PUSHING | {"publish.repo": "bundled"})
    errors = train()
    assert "snapshots of training are not sent: publish.repo: bundled names can only" in errors
    assert "2 snapshots of training are not sent, nor spooled" in errors
    assert Path("artifacts/runs/train.json").exists()
    assert not waiting_spools()


@pytest.mark.slow
def test_snapshots_reach_a_server(tiny, oxen_server):
    url = oxen_server.url("training", "snapshots")
    write_params(tiny, PUSHING | {"publish.repo": url})
    train()
    repository = open_repository(url, PATIENCE)
    paths = [entry.path for entry in repository.entries(repository.resolve("main"))]
    fingerprint = read_object(Path("artifacts/runs/train.json"))["fingerprint"]
    assert paths == [f"snapshots/{fingerprint}/{step}.parquet" for step in (20, 40)]


@pytest.mark.slow
def test_a_server_that_never_answers_ends_training_in_bounded_time(tiny, monkeypatch):
    """It accepts, and says nothing: the last flush is given up, and the rows wait."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/ns/snapshots"
        write_params(tiny, PUSHING | {"publish.repo": url, "oxen.stall_seconds": 2})
        started = time.monotonic()
        train()
    assert time.monotonic() - started < 60
    [spool] = waiting_spools()
    assert len(spool.items()) == 2


@pytest.mark.slow
def test_kills_at_random_moments_leave_each_step_once(tiny):
    import random

    write_params(tiny, PUSHING | {"train.num_steps": 400, "train.checkpoint_every": 30})
    chance = random.Random(0)
    for _ in range(8):
        process = start()
        time.sleep(chance.uniform(3, 12))
        process.kill()
        process.communicate(timeout=60)
    train()
    assert sorted(int(path.stem) for path in published()) == list(range(20, 401, 20))
    messages = [commit.message for commit in log_of(Path("published").resolve())]
    assert len(messages) == len(set(messages)) == 20
