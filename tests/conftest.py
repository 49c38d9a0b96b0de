"""Tiny data and parameters, so that real stages finish in seconds."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.data.packing import pack
from pipeline.data.tokenizer import train_char_tokenizer

# The sizes here are tiny, and several tests run at once.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

PROJECT = Path(__file__).parents[1]
TINY = {
    "device": "cpu",
    "model.width": 16,
    "model.num_blocks": 1,
    "model.num_heads": 2,
    "model.cond_dim": 8,
    "train.num_steps": 40,
    "train.batch_size": 16,
    "train.warmup_steps": 5,
    "train.eval_every": 20,
    "train.eval_blocks": 32,
    "train.sample_every": 20,
    "train.sample_num": 2,
    "train.sample_steps": 4,
    "train.checkpoint_every": 4,
    "baseline.width": 16,
    "baseline.num_blocks": 1,
    "baseline.num_heads": 2,
    "baseline.num_tokens": 5120,
    "baseline.batch_size": 16,
    "baseline.warmup_steps": 5,
    "baseline.eval_every": 10,
    "baseline.eval_blocks": 32,
    "sample.num": 16,
    "sample.num_traced": 2,
    "score.num_bootstrap": 20,
    "score.num_real_draws": 2,
    "report.num_samples": 4,
}


def shipped_params() -> dict[str, Any]:
    """params.yaml of the project, as plain values."""
    values: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text())
    return values


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with leaves replaced by dotted key."""
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[leaf] = value
    return values


def write_params(folder: Path, changes: dict[str, Any]) -> None:
    """params.yaml in `folder`: the project's, with leaves replaced."""
    (folder / "params.yaml").write_text(yaml.safe_dump(changed(shipped_params(), changes)))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with tiny params.yaml, a tokenizer, packed names and its own store."""
    write_params(tmp_path, TINY)
    names = ["Ada", "Ben", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hal", "Ida", "Jon"]
    tokenizer = train_char_tokenizer(names)
    tokenizer.save(tmp_path / "artifacts" / "tokenizer")
    documents = {"train": names * 10, "test": names[:4] * 10}
    pack(tmp_path / "artifacts" / "packed", documents, tokenizer, mode="pad", length=16)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def stage_command(name: str, *arguments: object) -> list[str]:
    """The command of a stage, under this Python."""
    return [sys.executable, "-m", f"stages.{name}", *map(str, arguments)]


@pytest.fixture
def run_stage() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a stage in a process of its own and return it with its output."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            stage_command(name, *arguments),
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            check=False,
        )

    return run
