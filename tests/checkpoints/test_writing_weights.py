"""Weights are written as safetensors has them, without a copy of the file in memory."""

import errno
import tracemalloc

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save

from pipeline.checkpoints import weights
from pipeline.checkpoints.weights import write_safetensors

TENSORS = {
    "b": torch.arange(2**20, dtype=torch.float32).reshape(1024, -1),
    "a": torch.ones(3, dtype=torch.bfloat16),
    "c": torch.tensor(2),
}


def test_bytes_are_the_librarys_and_the_mode_that_of_any_file(tmp_path):
    path = tmp_path / "model.safetensors"
    (tmp_path / "other").touch()
    tracemalloc.start()
    write_safetensors(path, TENSORS)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < path.stat().st_size / 8
    assert path.read_bytes() == save(TENSORS)
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.safetensors", "other"]


def test_a_full_disk_is_the_systems_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "save_file", full)
    path = tmp_path / "model.safetensors"
    with pytest.raises(OSError, match="No space left") as raised:
        write_safetensors(path, TENSORS)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    assert list(tmp_path.iterdir()) == []
