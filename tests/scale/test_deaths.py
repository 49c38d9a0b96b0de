"""Ranks under a real `dvc repro`, and every way in which they, or what started them, can die."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tiny_clone import make_clone, ran, run

from pipeline.config.edits import edit_yaml

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

# A busy machine starts one rank seconds after the other.
PATIENT, HASTY = 60, 5
GRACE = 60
"""Seconds in which all must have ended when nobody waits for a timeout."""
RESULTS = (
    "artifacts/checkpoint/model.safetensors",
    "artifacts/snapshots.jsonl",
    "reports/loss.csv",
)
VALUES = {
    "train.num_steps": 300,
    "train.accumulate": 4,
    "baseline.accumulate": 4,
    "train.checkpoint_every": 2,
}
AGAIN = ("dvc", "repro", "-s", "-f", "train")


class Repro:
    """A `dvc repro` of the training on two ranks, under way."""

    def __init__(self, clone: Path, timeout: int = PATIENT, strategy: str = "ddp") -> None:
        self.clone = clone
        values = {"resources.processes": 2, "resources.timeout_seconds": timeout}
        values["resources.strategy"] = strategy
        edit_yaml(clone / "params.yaml", values)
        self.log = clone.parent / "log"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with self.log.open("wb") as log:
            self.dvc = subprocess.Popen(
                AGAIN,
                cwd=clone,
                env=os.environ | {"PATH": path},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        state = (clone / ".store" / "train").glob
        self.ranks: dict[int, psutil.Process] = {}
        while len(self.ranks) < 2 or not list(state("train-*/state.pt")):
            assert self.dvc.poll() is None, self.log.read_text()
            time.sleep(0.05)
            self.look()
        self.stage = self.ranks[0].parent()

    def look(self) -> None:
        """Note which processes there are."""
        self.all = psutil.Process(self.dvc.pid).children(recursive=True)
        for process in self.all:
            with suppress(psutil.Error):
                values = process.environ()
                if "RANK" in values:
                    self.ranks[int(values["RANK"])] = process

    def end(self) -> str:
        """Its output, once it has failed and nothing of it is left."""
        status = self.dvc.wait(GRACE)
        assert status != 0
        _, alive = psutil.wait_procs(self.all, timeout=5)
        assert not alive
        return self.log.read_text()


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone whose training one process has finished."""
    folder = make_clone(tmp_path_factory.mktemp("clone") / "project", VALUES)
    run(folder, "dvc", "repro", "train")
    return folder


@pytest.fixture(scope="module")
def expected(clone):
    return [(clone / name).read_bytes() for name in RESULTS]


STOPPED = "error: train stopped at step "
WAYS: dict[str, tuple[Callable[[Repro], object], str | None]] = {
    "a rank is killed": (
        lambda repro: repro.ranks[1].kill(),
        "error: rank 1 was killed by SIGKILL; the next run goes on",
    ),
    "the first rank is killed": (
        lambda repro: repro.ranks[0].kill(),
        "error: rank 0 was killed by SIGKILL; the next run goes on",
    ),
    "the stage is killed": (lambda repro: repro.stage.kill(), None),
    "the stage is told to stop": (lambda repro: repro.stage.terminate(), STOPPED),
    "a rank is told to stop": (lambda repro: repro.ranks[1].terminate(), STOPPED),
    "ctrl-c": (lambda repro: os.killpg(repro.dvc.pid, signal.SIGINT), STOPPED),
    "a rank hangs": (
        lambda repro: repro.ranks[1].suspend(),
        f"error: a rank was silent for {HASTY} s (resources.timeout_seconds)",
    ),
}


@pytest.mark.parametrize(
    ("way", "strategy"),
    [
        *((way, "ddp") for way in WAYS),
        *((way, "fsdp") for way in ("a rank is killed", "ctrl-c", "a rank hangs")),
    ],
)
def test_however_ranks_die_all_end_with_one_message_and_the_next_run_goes_on(
    clone, expected, way, strategy
):
    do, message = WAYS[way]
    repro = Repro(clone, HASTY if way == "a rank hangs" else PATIENT, strategy)
    do(repro)
    said = repro.end()
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    if message is None:
        assert not lines
    else:
        (line,) = lines
        assert line.startswith(message)
    assert "failed to reproduce 'train'" in said
    output = run(clone, *AGAIN)
    assert ran(output) == {"train"}
    assert "| 0/300 " not in output
    assert [(clone / name).read_bytes() for name in RESULTS] == expected
    assert not list((clone / ".store" / "train").iterdir())


def test_twenty_random_kills_change_nothing(clone, expected):
    """Of a rank or the stage, at any moment from when ranks begin to start."""
    chance = random.Random(0)
    killed = 0
    while killed < 20:
        repro = Repro(clone, strategy=chance.choice(["ddp", "fsdp"]))
        time.sleep(chance.uniform(0, 6))
        victim = chance.choice([*repro.ranks.values(), repro.stage])
        with suppress(psutil.NoSuchProcess):
            victim.kill()
        if repro.dvc.wait(GRACE) != 0:
            killed += 1
            _, alive = psutil.wait_procs(repro.all, timeout=5)
            assert not alive
            assert "Traceback" not in repro.log.read_text()
    output = run(clone, *AGAIN)
    assert ran(output) == {"train"}
    assert [(clone / name).read_bytes() for name in RESULTS] == expected


def test_a_dvc_that_dies_alone_leaves_a_finished_state_to_the_next(clone, expected):
    repro = Repro(clone)
    repro.dvc.kill()
    repro.dvc.wait()
    psutil.wait_procs(repro.all, timeout=60)
    (state,) = (clone / ".store" / "train").glob("train-*/state.pt")
    output = run(clone, *AGAIN)
    assert "| 0/300 " not in output
    assert [(clone / name).read_bytes() for name in RESULTS] == expected
    assert not state.exists()


def test_a_second_job_of_one_fingerprint_is_refused(clone, expected):
    repro = Repro(clone)
    stage = [*repro.stage.cmdline()]
    done = subprocess.run(
        stage, cwd=clone, env=repro.stage.environ(), capture_output=True, text=True, check=False
    )
    repro.dvc.wait(120)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: another process is training this already (train-")
    assert [(clone / name).read_bytes() for name in RESULTS] == expected
