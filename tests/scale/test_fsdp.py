"""Weights divided among ranks: the bytes of one process, also where ranks or strategy change."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch.distributed.checkpoint  # noqa: F401 - once, and not in each rank that is forked
from ranks import CPU, on_ranks
from test_training import BLOCKS, CASES, FOUR, Case, resumed, train
from toy import random_model

from pipeline.baseline.gpt2 import NextToken, block_nats, new_baseline
from pipeline.methods.protocol import Model
from pipeline.scale import adamw
from pipeline.scale.world import ALONE, World
from pipeline.training.strategy import shards_of


def checkpointing() -> Model:
    model = CASES["raw, dropout"][0]()
    model.network.activation_checkpointing = True
    return model


def labelled() -> Model:
    """With embeddings of three rows, of which the last of four ranks has none."""
    labels = {"labels": {"a": ["1", "2"]}, "label_dropout": 0.1, "length": 15}
    return random_model("absorb", "conditional", vocab_size=11, num_blocks=2, **labels)


DIVIDED: dict[str, Case] = {
    name: case for name, case in CASES.items() if case[1].accumulate == FOUR.accumulate
} | {
    "eight pieces": (CASES["conditional"][0], replace(FOUR, accumulate=8)),
    "blocks computed again": (checkpointing, FOUR),
    "blocks computed again, bfloat16": (checkpointing, replace(FOUR, precision="bfloat16")),
    "two calls a step, bfloat16": (
        CASES["embedding, a clock that learns"][0],
        replace(FOUR, precision="bfloat16"),
    ),
    "labels": (labelled, FOUR),
}


def test_a_run_that_stops_goes_on_divided_or_not_to_the_same_bytes(tmp_path):
    whole = resumed(tmp_path, (1, None))
    assert resumed(tmp_path, (2, 3, "ddp"), (4, 4, "fsdp"), (1, None)) == whole


def test_a_last_batch_of_fewer_calls_keeps_no_rank_waiting(tmp_path):
    """The baseline calls its network for each third of a batch, and for one row but once."""
    sizes = SimpleNamespace(width=8, num_blocks=2, num_heads=2, dropout=0.0)

    def nats(world: World) -> list[list[float]]:
        model = new_baseline(
            sizes, vocab_size=11, length=16, start_id=10, mode="pad", seed=0, device=CPU
        )
        shards = shards_of(NextToken(model), FOUR, CPU, world)
        whole = (lambda compute: compute()) if shards is None else shards.whole
        model.eval()
        held_out = (BLOCKS[:num] for num in (1, 5, 8, 10, 13))
        scored = partial(block_nats, model, batch_size=4, units=world)
        return [whole(partial(scored, blocks))[0].tolist() for blocks in held_out]

    alone = nats(ALONE)
    for strategy in ("ddp", "fsdp"):
        assert on_ranks(2, nats, tmp_path, 20, strategy) == [alone, alone]


@pytest.mark.slow
@pytest.mark.parametrize("name", DIVIDED)
def test_divided_weights_are_trained_to_the_bytes_of_one_process(tmp_path, name):
    def run(world: World) -> str:
        return train(world, DIVIDED[name], tmp_path / str(world.size))

    found = {run(ALONE)}
    for size in (2, 4):
        found.add(on_ranks(size, run, tmp_path, strategy="fsdp")[0])
    assert len(found) == 1


@pytest.mark.slow
def test_their_number_may_change_on_the_way(tmp_path):
    whole = resumed(tmp_path, (1, None))
    parts = (1, 2), (2, 3, "fsdp"), (4, 2, "fsdp"), (2, 2, "ddp"), (2, None, "fsdp")
    assert resumed(tmp_path, *parts) == whole


@pytest.mark.slow
def test_with_fast_as_many_ranks_go_on_to_the_same_bytes(tmp_path):
    whole = resumed(tmp_path, (4, None, "fsdp"), reduction="fast")
    assert resumed(tmp_path, (4, 5, "fsdp"), (4, None, "fsdp"), reduction="fast") == whole


@pytest.mark.slow
def test_parts_that_are_not_laid_out_as_in_the_whole_are_rounded_otherwise(tmp_path, monkeypatch):
    def run(world: World) -> str:
        return train(world, CASES["conditional"], tmp_path / str(world.size))

    monkeypatch.setattr(adamw, "UNIT", 1)
    assert on_ranks(4, run, tmp_path, strategy="fsdp")[0] != run(ALONE)
