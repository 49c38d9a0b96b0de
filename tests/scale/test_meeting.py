"""Ranks that do not come together, and those that cannot be."""

import socket
from threading import Event

import pytest
import torch
from ranks import CPU, free_port
from tiny_project import TINY, write_params

from pipeline.config.params import load_params
from pipeline.device import check_device
from pipeline.errors import PipelineError
from pipeline.scale.world import ALONE, World, check_same_step, joined
from pipeline.training.processes import as_ranks

PAIR = {"resources.processes": 2, "train.accumulate": 2, "baseline.accumulate": 2}


@pytest.fixture
def rank(monkeypatch):
    """The environment of the first of two ranks; the port where they meet."""
    port = free_port()
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_PORT", str(port))
    return port


def meeting(timeout_seconds: int = 1) -> str:
    """Why two ranks do not meet."""
    with pytest.raises(PipelineError) as error, joined(2, CPU, timeout_seconds):
        pass
    return str(error.value)


def test_one_process_is_alone_whatever_its_environment_says(rank):
    with joined(1, CPU, 1) as world:
        assert world is ALONE
        assert world.agree(True)
        assert not world.agree(False)
        assert world.gather("a") == ["a"]
        assert world.part([1, 2, 3]) == [1, 2, 3]
    assert not torch.distributed.is_initialized()


def test_ranks_share_pieces_in_their_order():
    shares = [World(rank, 4).part(list(range(8))) for rank in range(4)]
    assert shares == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_rank_that_never_comes_is_said_with_the_patience(rank):
    assert meeting() == (
        f"ranks cannot meet at localhost:{rank} (MASTER_ADDR, MASTER_PORT): not all came within "
        "1 s (resources.timeout_seconds)"
    )


def test_a_port_in_use_is_said(rank):
    with socket.socket() as other:
        other.bind(("", rank))
        other.listen()
        assert meeting().endswith("that port is in use: set MASTER_PORT to another")


@pytest.mark.parametrize("name", ["MASTER_ADDR", "MASTER_PORT", "RANK"])
def test_a_variable_that_is_missing_is_named(rank, monkeypatch, name):
    monkeypatch.delenv(name)
    assert name in meeting()


def test_another_number_of_ranks_than_params_yaml_has_is_refused(rank, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    said = "WORLD_SIZE must be resources.processes * resources.nodes, 2 (got 4)"
    assert meeting() == said


def test_ranks_that_others_start_are_not_started_by_the_stage(empty_project):
    write_params(empty_project, TINY | PAIR | {"resources.launcher": "env"})
    with pytest.raises(PipelineError, match=r"resources\.launcher: env takes RANK, WORLD_SIZE, MA"):
        as_ranks("stages.train", load_params(), [], Event())


def test_a_gpu_for_each_process_is_needed(empty_project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("pipeline.device.has_bfloat16", lambda device: True)
    write_params(empty_project, TINY | PAIR | {"device": "auto"})
    with pytest.raises(PipelineError, match=r"resources\.processes: this machine has 1 CUDA devic"):
        check_device(load_params())


@pytest.mark.parametrize("steps", [[4, 8], [None, 4]])
def test_ranks_that_see_other_states_are_refused(monkeypatch, steps):
    check_same_step(ALONE, 4)
    monkeypatch.setattr(World, "gather", lambda world, step: steps)
    with pytest.raises(PipelineError, match="must share its folder"):
        check_same_step(World(0, 2), steps[0])
