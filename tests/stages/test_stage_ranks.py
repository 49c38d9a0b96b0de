"""Training stages as several processes, and what is seen when one of them dies."""

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from ranks import free_port
from test_stage_train import INPUTS, OUTS, clear_outs, finish, results, states
from tiny_project import PROJECT, TINY, stage_command, write_params

VALUES = TINY | {"train.accumulate": 4, "baseline.accumulate": 4, "train.checkpoint_every": 2}
TWO = VALUES | {"resources.processes": 2}


def rank_processes(launcher: psutil.Process) -> dict[int, psutil.Process]:
    """The ranks that a launching process has, once all have joined one another."""
    return {
        int(child.environ()["RANK"]): child
        for child in launcher.children()
        if "RANK" in child.environ()
    }


def wait_for(condition, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_rank_ends_all_with_one_message(tiny):
    """In test_deaths the next run goes on from there."""
    write_params(tiny, TWO)
    stage = subprocess.Popen(
        stage_command("train", *INPUTS, *OUTS),
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    wait_for(states)
    ranks = rank_processes(psutil.Process(stage.pid))
    ranks[1].kill()
    _, errors = stage.communicate(timeout=60)
    assert stage.returncode == 1
    last = errors.splitlines()[-1]
    assert last == "error: rank 1 was killed by SIGKILL; the next run goes on"
    assert errors.count("error") == 1, errors
    assert "Traceback" not in errors
    assert len(ranks) == 2
    assert not [rank for rank in ranks.values() if rank.is_running()]
    assert not list(Path(".store").glob("ranks-*"))
    assert not any(Path(out).exists() for out in OUTS)
    assert states()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "strategy"), [(2, "ddp"), (4, "ddp"), (2, "fsdp"), (4, "fsdp")]
)
def test_stages_on_ranks_write_what_one_process_writes(tiny, run_stage, processes, strategy):
    baseline = ["artifacts/baseline", "artifacts/runs/baseline.json", "reports/baseline_loss.csv"]
    found = []
    for num in (1, processes):
        ranks = {"resources.processes": num, "resources.strategy": strategy}
        write_params(tiny, VALUES | ranks | {"baseline.dropout": 0.1})
        clear_outs()
        done = run_stage("train", *INPUTS, *OUTS)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr.lower(), done.stderr
        weights = Path("artifacts/baseline/model.safetensors")
        done = run_stage("baseline", *INPUTS, *baseline)
        assert done.returncode == 0, done.stderr
        losses = Path("reports/baseline_loss.csv").read_bytes()
        found.append(results() | {"baseline": weights.read_bytes(), "losses": losses})
        assert not list(Path(".store/train").iterdir())
        assert f'"processes": {num},' in Path("artifacts/runs/train.json").read_text()
    assert found[0] == found[1]


@pytest.mark.slow
def test_ranks_that_others_start_write_what_one_process_writes(tiny):
    write_params(tiny, VALUES)
    finish()
    expected = results()
    clear_outs()
    write_params(tiny, TWO | {"resources.launcher": "env"})
    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            stage_command("train", *INPUTS, *OUTS),
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | meet | {"PYTHONPATH": str(PROJECT), "RANK": str(rank)},
        )
        for rank in range(2)
    ]
    for rank in reversed(ranks):
        _, errors = rank.communicate(timeout=60)
        assert rank.returncode == 0, errors
    assert "100%" in errors
    assert results() == expected
    assert not list(Path(".store/train").iterdir())


SRUN = """#!/bin/sh
# Stands for SLURM's: starts the tasks of all nodes here.
echo "$1 $2 $3" > asked
nodes=${1#--nodes=} tasks=${2#--ntasks-per-node=}
shift 3
trap 'kill $started' TERM
for number in $(seq 0 $((nodes * tasks - 1))); do
    SLURM_PROCID=$number SLURM_LOCALID=$((number % tasks)) "$@" & started="$started $!"
done
status=0
for each in $started; do wait $each || status=1; done
exit $status
"""


@pytest.mark.slow
def test_srun_is_asked_for_ranks_and_what_they_write_is_the_same(tiny, run_stage, monkeypatch):
    write_params(tiny, VALUES)
    finish()
    expected = results()
    clear_outs()
    (tiny / "bin").mkdir()
    (tiny / "bin" / "srun").write_text(SRUN)
    (tiny / "bin" / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tiny / 'bin'}:{os.environ['PATH']}")
    slurm = {"resources.launcher": "slurm", "resources.nodes": 2, "resources.processes": 1}
    write_params(tiny, VALUES | slurm)
    done = run_stage("train", *INPUTS, *OUTS)
    assert done.returncode == 0, done.stderr
    assert Path("asked").read_text() == "--nodes=2 --ntasks-per-node=1 --kill-on-bad-exit=1\n"
    assert results() == expected
    assert not list(Path(".store/train").iterdir())
    clear_outs()
    write_params(tiny, VALUES | slurm | {"train.lr": 1e30})
    done = run_stage("train", *INPUTS, *OUTS)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: training diverged") == done.stderr.count("error") == 1
