"""Checkpoints of which each rank writes its parts: kills, full disks, and who may read them."""

import itertools
import multiprocessing
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint  # once, and not in each rank, which are forked
from ranks import CPU, free_port, on_ranks, run_rank
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from pipeline.errors import CheckpointError, PipelineError, reported
from pipeline.scale.world import ALONE, World
from pipeline.training.state import PLACES, TrainingState, training_state

SHAPES = (7, 3), (2, 40_000), (1,)
"""Of which ranks have unlike parts, or none."""


def state_of(world: World, step: int) -> dict:
    """A state all of whose numbers are the step's, in parts where the world divides."""
    whole = [torch.full(shape, float(step)) for shape in SHAPES]
    if world.divides:
        mesh = init_device_mesh("cpu", (world.size,))
        whole = [distribute_tensor(each, mesh, [Shard(0)], src_data_rank=None) for each in whole]
    moments = {0: {"exp_avg": whole[0].clone(), "step": torch.tensor(float(step))}}
    return {"step": step, "module": whole, "optimizer": {"state": moments, "lr": 0.5}}


def numbers(state: dict) -> list[Tensor]:
    tensors = [*state["module"], *state["optimizer"]["state"][0].values()]
    return [each.full_tensor() if isinstance(each, DTensor) else each for each in tensors]


def taken_up(folder: Path, world: World = ALONE) -> dict | None:
    """The last checkpoint, whose numbers are all its step's."""
    world.agree(False)
    state = TrainingState(folder, world=world)
    if (saved := state.load(CPU)) is None:
        return None
    saved = state.fitted(saved, lambda plain: state_of(world, -1))
    assert saved["optimizer"]["lr"] == 0.5
    assert all(bool((each == saved["step"]).all()) for each in numbers(saved))
    assert [row["step"] for row in state.losses][-1:] == [saved["step"]] or not world.is_first
    return saved


def save(world: World, folder: Path, steps, *, beside: bool = False) -> None:
    world.agree(False)  # The first has written what was saved before.
    state = TrainingState(folder, world=world)
    state.load(CPU)
    for step in steps:
        state.losses.append({"step": step})
        state.save(state_of(world, step), beside=beside)
    state.settle()


@pytest.mark.parametrize("beside", [False, True])
def test_any_number_of_ranks_takes_up_what_others_left_whole_or_in_parts(tmp_path, beside):
    def three(world: World) -> int:
        save(world, tmp_path, range(1, 4), beside=beside)
        return taken_up(tmp_path, world)["step"]

    def next_one(world: World) -> int:
        step = taken_up(tmp_path, world)["step"]
        save(world, tmp_path, [step + 1], beside=beside)
        return taken_up(tmp_path, world)["step"]

    assert on_ranks(2, three, tmp_path, strategy="fsdp") == [3, 3]
    assert sum((tmp_path / place).exists() for place in PLACES) == 1
    assert taken_up(tmp_path)["step"] == 3
    assert on_ranks(4, next_one, tmp_path, strategy="fsdp") == [4] * 4
    assert next_one(ALONE) == 5
    assert not any((tmp_path / place).exists() for place in PLACES)
    assert on_ranks(2, next_one, tmp_path, strategy="fsdp") == [6, 6]


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, beside):
    chance, fork, found = random.Random(0), multiprocessing.get_context("fork"), 0
    while found < 10:
        first = 1 + ((taken_up(tmp_path) or {"step": 0})["step"])

        def going(world: World, first: int = first) -> None:
            save(world, tmp_path, itertools.count(first), beside=beside)

        port = free_port()
        given = 2, port, going, tmp_path, 60, "fsdp"
        ranks = [fork.Process(target=run_rank, args=(rank, *given)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        time.sleep(chance.uniform(0.3, 1.5))
        for rank in chance.sample(ranks, 2):
            rank.kill()
            rank.join()
        found += taken_up(tmp_path) is not None


@pytest.mark.parametrize("beside", [False, True])
def test_a_full_disk_is_said_by_all_and_leaves_the_last_checkpoint(tmp_path, beside):
    def ended(world: World) -> str:
        save(world, tmp_path / "state", [1])
        said = []

        def full(folder: Path, **options: bool) -> None:
            folder.mkdir()
            (folder / "__1_0.distcp").symlink_to("/dev/full")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "rmtree", full)
            patch.setattr("pipeline.errors.tell", lambda kind, text: said.append(text))
            with pytest.raises(SystemExit):
                reported(save)(world, tmp_path / "state", [2], beside=beside)
        return said[0]

    for said in on_ranks(2, ended, tmp_path, strategy="fsdp"):
        assert said.startswith("no disk space left while writing ")
        assert "/state/" in said
    assert taken_up(tmp_path / "state")["step"] == 1


def test_damaged_parts_are_named(tmp_path):
    on_ranks(2, lambda world: save(world, tmp_path, [1]), tmp_path, strategy="fsdp")
    (part,) = tmp_path.glob("[ab]/__1_0.distcp")
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(
        CheckpointError, match=rf"/{part.parent.name} cannot be read: remove {tmp_path} to"
    ):
        taken_up(tmp_path)
    part.unlink()
    with pytest.raises(
        CheckpointError, match=rf"/{part.parent.name} cannot be read: remove {tmp_path} to"
    ):
        taken_up(tmp_path)


def test_ranks_that_do_not_share_the_folder_are_refused(empty_project, monkeypatch):
    monkeypatch.setattr(World, "gather", lambda world, value: [value, "other"])
    with (
        pytest.raises(PipelineError, match=r"strategy: fsdp has each rank write .* which other"),
        training_state("train", {}, world=World(0, 2, "fsdp")),
    ):
        pass
