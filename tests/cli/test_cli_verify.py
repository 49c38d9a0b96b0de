"""`sedd verify`: its table, its exit status and its messages."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "uniform_geometric", tmp_path / "fixture"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fixture_that_holds(sedd, elsewhere, dtype):
    folder = GOLDEN / "absorb_loglinear"
    result = sedd("verify", folder, "--device", "cpu", "--dtype", dtype)
    assert (result.exit_code, result.stderr) == (0, "")
    title, header, *rows = result.stdout.splitlines()
    assert title == f"{folder} on cpu: {dtype}, attention sdpa, torch {torch.__version__}"
    assert header.split("  ")[0] == "array"
    assert len(rows) == 8
    tolerance = {"float32": "2e-05", "bfloat16": "2e-02"}[dtype]
    assert all(row.split()[3:] == [tolerance, "within"] for row in rows)


def test_a_fixture_that_does_not(sedd, elsewhere, folder):
    arrays = dict(np.load(folder / "golden.npz"))
    arrays["loss"][0] *= 1.5
    arrays["log_score"][1, 0, 0] = np.nan
    np.savez(folder / "golden.npz", **arrays)
    result = sedd("verify", folder)
    assert result.exit_code == 1
    assert result.stderr == "error: past the tolerance: log_score, loss\n"
    verdicts = {row.split()[0]: row.split()[-1] for row in result.stdout.splitlines()[2:]}
    assert {name for name, verdict in verdicts.items() if verdict == "past"} == {
        "log_score",
        "loss",
    }
    assert len(verdicts) == 8


def test_an_extra_array_is_refused(refusal, elsewhere, folder):
    np.savez(folder / "golden.npz", extra=np.ones(1), **np.load(folder / "golden.npz"))
    assert refusal("verify", folder).endswith("golden.npz: extra is unexpected")


def test_wrong_input(refusal, elsewhere, folder):
    assert "there is no folder" in refusal("verify", "nowhere")
    assert "golden.npz is missing" in refusal("verify", elsewhere)
    assert "--device must be" in refusal("verify", folder, "--device", "tpu")
    assert "(got cuda:99)" in refusal("verify", folder, "--device", "cuda:99")
    flash = ("--attention", "flash", "--device", "cpu")
    assert "attention: flash cannot run" in refusal("verify", folder, *flash)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors" in refusal("verify", folder)


def test_help_answers_at_once():
    command = [sys.executable, "-c", "from pipeline.cli import app; app()", "verify", "--help"]
    started = time.perf_counter()
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 2
    assert "--attention" in shown.stdout
    loaded = "import sys, pipeline.cli; print({'torch', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
