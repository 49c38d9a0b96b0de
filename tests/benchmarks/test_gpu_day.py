"""The measuring of a GPU, as far as a CPU can run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_day

PROJECT = Path(__file__).parents[2]
# What a machine that was lent for measuring has not.
BARE = """
import sys

class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "dvc", "mlflow", "oxen", "typer", "filelock",
                                  "psutil", "transformers", "tokenizers", "safetensors", "yaml"}:
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Bare())
import runpy
sys.argv = ["gpu_day", *sys.argv[1:]]
runpy.run_module("benchmarks.gpu_day", run_name="__main__")
"""


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-c", BARE, *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_all_of_it_runs_with_pytorch_alone(tmp_path):
    done = run("--device", "cpu", "--tiny", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "gpu_day.jsonl").read_text().splitlines()]
    sections = {line["section"] for line in lines}
    assert sections == {
        *("environment", "training", "sampling", "gradients", "same_bytes", "names"),
    }
    assert not any("skipped" in line for line in lines)
    errors = [line for line in lines if line["section"] == "gradients"]
    assert all(line["worst_error"] < 1e-5 for line in errors if line["precision"] == "float32")
    assert all(line["worst_error"] < 0.03 for line in errors)
    table = (tmp_path / "gpu_day.md").read_text()
    for name in ("ours conditional", "plain raw", "ours medium conditional", "plain medium raw"):
        assert f"| {name} |" in table
    assert "| plain raw bfloat16 |" in table
    assert table in done.stdout


def test_what_does_not_fit_takes_no_other_with_it(monkeypatch, tmp_path):
    def measure(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_day, "measure", measure)
    day = gpu_day.Day(torch.device("cpu"), tiny=True, out=tmp_path)
    gpu_day._measure_training(day, "tiny", "plain", "raw", False, label="medium ")
    day._file.close()
    said = {"section": "training", "name": "plain medium raw", "skipped": "out of memory"}
    assert day.results == [said]


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run()
    assert done.returncode == 1
    assert done.stderr == (
        "there is no CUDA device here: --device cpu --tiny tries the script itself\n"
    )
