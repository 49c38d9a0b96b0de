"""Kills, and a full disk, at random changes of the file system: the next run ends as ever."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from campaign import SEED, check_said
from tiny_project import PROJECT, TINY, write_params

pytestmark = pytest.mark.slow

ARTIFACTS = Path("artifacts")
SAMPLES, SCORES, RUNS = (ARTIFACTS / name for name in ("samples", "scores", "runs"))
DATA, TOKENIZER, PACKED = (ARTIFACTS / name for name in ("data", "tokenizer", "packed"))
CHECKPOINT, BASELINE = ARTIFACTS / "checkpoint", ARTIFACTS / "baseline"
# Arguments of each stage, and those of its outs whose bytes are the same each time.
STAGES: dict[str, tuple[list[object], list[Path]]] = {
    "fetch": ([DATA, ARTIFACTS / "provenance.json"], [DATA, ARTIFACTS / "provenance.json"]),
    "tokenizer": ([DATA, TOKENIZER], [TOKENIZER]),
    "pack": ([DATA, TOKENIZER, PACKED], [PACKED]),
    "train": (
        [PACKED, TOKENIZER, CHECKPOINT, "snapshots.jsonl", RUNS / "train.json", "loss.csv"],
        [CHECKPOINT, Path("snapshots.jsonl"), Path("loss.csv")],
    ),
    "baseline": (
        [PACKED, TOKENIZER, BASELINE, RUNS / "baseline.json", "baseline_loss.csv"],
        [BASELINE, Path("baseline_loss.csv")],
    ),
    "evaluate": ([CHECKPOINT, BASELINE, PACKED, "likelihood.json"], [Path("likelihood.json")]),
    "sample": (
        [4, CHECKPOINT, TOKENIZER, SAMPLES],
        [SAMPLES / "4.jsonl", SAMPLES / "4.trace.json"],
    ),
    "score": (
        [SAMPLES / "4.jsonl", DATA, TOKENIZER, PACKED, BASELINE, SCORES / "4.json"],
        [SCORES / "4.json"],
    ),
}
COUNTS = {"KILLS": 200, "FULLS": 40}
STAGE = """
import errno, os, runpy, signal, sys
left, mode, stage = int(sys.argv[1]), sys.argv[2], sys.argv[3]
made = {"os.mkdir", "os.rename"}
count = 0

def hook(event, values):
    global count
    if event == "open":
        if not isinstance(values[0], str) or not values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event not in {*made, "os.remove", "os.rmdir", "os.truncate"}:
        return
    if str(values[0]).startswith("/dev/") or "__pycache__" in str(values[0]):
        return
    count += 1
    if count >= left and mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if count >= left and mode == "full" and event in {*made, "open"}:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), values[0])

sys.argv = ["-m", *sys.argv[4:]]
sys.addaudithook(hook)
try:
    runpy.run_module(f"stages.{stage}", run_name="__main__")
finally:
    print(f"changes: {count}", file=sys.stderr)
"""


def run(stage: str, at: int = 10**9, mode: str = "count") -> subprocess.CompletedProcess[str]:
    """Run a stage in the working folder, as DVC does: its outs are removed before."""
    arguments, outs = STAGES[stage]
    for out in outs:
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
    return subprocess.run(
        [sys.executable, "-c", STAGE, str(at), mode, stage, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )


def contents(stage: str) -> dict[str, bytes]:
    """The bytes of a stage's outs."""
    found = [path for out in STAGES[stage][1] for path in (out, *out.rglob("*")) if path.is_file()]
    return {str(path): path.read_bytes() for path in found}


def test_kills_and_full_disks(empty_project):
    kills, fulls = (int(os.environ.get(f"CAMPAIGN_{what}", num)) for what, num in COUNTS.items())
    print(f"CAMPAIGN_SEED={SEED}, {kills} kills, {fulls} full disks")
    write_params(empty_project, TINY)
    draw, changes, right = random.Random(SEED), {}, {}
    for stage in STAGES:
        done = run(stage)
        assert done.returncode == 0, done.stderr
        changes[stage] = int(done.stderr.rpartition("changes: ")[2])
        right[stage] = contents(stage)
        assert right[stage]
    for number in range(kills + fulls):
        stage, mode = draw.choice(list(STAGES)), "kill" if number < kills else "full"
        at = draw.randint(1, changes[stage])
        where = f"number {number}: {mode} of {stage} at change {at} of {changes[stage]}"
        done = run(stage, at, mode)
        if mode == "kill":
            assert done.returncode in (-signal.SIGKILL, 0), where
        elif done.returncode:
            assert done.returncode == 1, where
            check_said(done.stderr)
            assert "no disk space left" in done.stderr, (where, done.stderr)
        done = run(stage)
        assert done.returncode == 0, (where, done.stderr)
        assert contents(stage) == right[stage], where
        left = list(ARTIFACTS.rglob("*partial*"))
        assert not left, (where, left)
