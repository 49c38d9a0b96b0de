"""Tiny data, so that real stages finish in seconds."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from oxen_server import own_oxen_server, oxen_server
from tiny_project import PROJECT, TINY, stage_command, write_params

from pipeline.data.packing import pack
from pipeline.data.tokenizer import train_char_tokenizer

__all__ = ["own_oxen_server", "oxen_server"]  # fixtures for every test

# The sizes here are tiny, and several tests run at once.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The same examples every time: new ones are looked for by tests/campaigns, with a seed of theirs.
settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
settings.load_profile("fixed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.exit("tests marked gpu need a CUDA device, and this machine has none", returncode=1)


@pytest.fixture
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a store of its own, for a user who has not configured Oxen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path / "no configuration"))
    return tmp_path


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
