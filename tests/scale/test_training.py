"""Training on 1, 2 and 4 ranks: the same bytes, also where their number changes on the way."""

import hashlib
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import CPU, on_ranks
from toy import SETTINGS, small_embedding, small_model

from pipeline.errors import Interrupted
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
from pipeline.scale.world import ALONE, Strategy, World
from pipeline.training.loop import Trainer, Watch, fit
from pipeline.training.run import held_out_loss
from pipeline.training.settings import Settings
from pipeline.training.state import TrainingState

BLOCKS = np.random.default_rng(0).integers(0, 11, (40, 16)).astype(np.uint16)
FOUR = replace(SETTINGS, num_steps=6, batch_size=16, accumulate=4, eval_every=3, log_every=2)
EMBEDDING = small_embedding(num_blocks=2, dropout=0.2, loss="likelihood")


def embedding(**changes: Any) -> Callable[[], Model]:
    def make() -> Model:
        torch.manual_seed(0)
        return EmbeddingDiffusion(replace(EMBEDDING, **changes))

    return make


def sedd(*given: Any) -> Callable[[], Model]:
    return lambda: small_model(*given)


Case = tuple[Callable[[], Model], Settings]
CASES: dict[str, Case] = {
    "conditional": (sedd("absorb", "conditional"), FOUR),
    "raw, dropout": (sedd("absorb", "raw", 0.2), FOUR),
    "uniform, dropout": (sedd("uniform", "raw", 0.2), FOUR),
    "conditional, dropout, bfloat16": (
        sedd("absorb", "conditional", 0.2),
        replace(FOUR, precision="bfloat16"),
    ),
    "conditional, dropout, twelve pieces": (
        sedd("absorb", "conditional", 0.2),
        replace(FOUR, batch_size=24, accumulate=12),
    ),
    "embedding, a clock that learns": (embedding(), FOUR),
    "embedding, a head for vectors": (
        embedding(input="vector", cond_dim=8, loss="mse_cross_entropy", clock="cosine"),
        FOUR,
    ),
}


class Stopping:
    """An objective of which one rank is told to stop in the middle of a step."""

    def __init__(self, model: Model, steps_left: int | None) -> None:
        self._objective, self._steps_left = method_of(model).objective(model), steps_left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def finish_step(self, of_all: Any) -> None:
        self._objective.finish_step(of_all)
        if self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left == 0:
                os.kill(os.getpid(), signal.SIGTERM)


def saved_by(folder: Path, model: Model, settings: Settings) -> dict[str, Any]:
    """The state that some ranks left, as one process takes it up."""
    state, trainer = (
        TrainingState(folder),
        Trainer(method_of(model).objective(model), settings, CPU),
    )
    saved = state.load(CPU)
    assert saved is not None
    return state.fitted(saved, trainer.like)


def train(world: World, case: Case, folder: Path, stop: int | None = None, **changes: Any) -> str:
    """SHA-256 of weights, averages, moments and what is logged, after some steps or at the end."""
    make, settings = case
    model = make()
    blocks = BLOCKS.copy()
    blocks[:, : len(model.labels)] %= 3  # Of two values, or not said.
    held_out = torch.from_numpy(blocks[:8].astype(np.int64))
    state = TrainingState(folder, world=world)
    stops = stop if world.rank == world.size - 1 else None

    def sampled(step: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(step)
        samples = method_of(model).sample(
            model, 2, num_steps=3, predictor="auto", generator=generator
        )
        return {"ids": samples.tokens.tolist()}

    watch = Watch(
        lambda: held_out_loss(
            model, held_out, batch_size=3, seed=0, precision="float32", world=world
        ),
        sampled,
        sample_every=3,
        from_start=True,
    )
    try:
        fit(
            Stopping(model, stops),
            blocks,
            replace(settings, **changes),
            watch,
            device=CPU,
            state=state,
            desc="test",
            world=world,
        )
    except Interrupted:
        return "stopped"
    if world.divides and not world.is_first:
        return "in parts"
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    if world.is_first:
        saved = saved_by(folder, make(), settings)
        digest.update(repr([*state.losses, *state.snapshots]).encode())
        for tensor in (*saved["module"].values(), *saved["ema"]["averages"]):
            digest.update(tensor.numpy().tobytes())
        for moments in saved["optimizer"]["state"].values():
            digest.update(moments["exp_avg"].numpy().tobytes())
            digest.update(moments["exp_avg_sq"].numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Hashes of the first rank by case and number of ranks; and of the others."""
    folder = tmp_path_factory.mktemp("ranks")

    def all_cases(world: World) -> dict[str, str]:
        found = {
            name: train(world, case, folder / f"{name} {world.size}")
            for name, case in CASES.items()
        }
        return found | {
            f"fast {num}": train(
                world, CASES["conditional"], folder / f"fast {num} {world.size}", reduction="fast"
            )
            for num in (1, 2)
        }

    by_size = {size: on_ranks(size, all_cases, folder) for size in (2, 4)}
    return {1: [all_cases(ALONE)], **by_size}


@pytest.mark.parametrize("name", CASES)
def test_any_number_of_ranks_trains_the_same_bytes(found, name):
    hashes = {size: ranks[0][name] for size, ranks in found.items()}
    assert len(set(hashes.values())) == 1, hashes
    # The others hold the same weights.
    for ranks in found.values():
        assert len({each[name] for each in ranks[1:]}) <= 1


def test_fast_is_the_same_bytes_for_the_same_number_of_ranks_alone(found):
    for ranks in found.values():
        assert ranks[0]["fast 1"] == ranks[0]["fast 2"]
    # As they come, of four pieces, is another order than that of the tree.
    assert found[1][0]["fast 1"] != found[1][0]["conditional"]
    assert found[4][0]["fast 1"] != found[1][0]["fast 1"]


Part = tuple[int, int | None] | tuple[int, int | None, Strategy]


def resumed(folder: Path, *parts: Part, **changes: Any) -> str:
    """The hash after parts of a training, each on some ranks and for some steps."""
    state = folder / "state"
    shutil.rmtree(state, ignore_errors=True)
    name = "conditional, dropout, bfloat16"
    for size, stop, *strategy in parts:

        def part(world: World, stop: int | None = stop) -> str:
            return train(world, CASES[name], state, stop, num_steps=12, **changes)

        hashes = [part(ALONE)] if size == 1 else on_ranks(size, part, folder, 60, *strategy)
        assert (hashes[0] == "stopped") == (stop is not None)
    return str(hashes[0])


def test_a_run_that_stops_goes_on_with_other_ranks_to_the_same_bytes(tmp_path):
    whole = resumed(tmp_path, (1, None))
    assert resumed(tmp_path, (2, 6), (4, 3), (1, None)) == whole


@pytest.mark.slow
def test_with_fast_a_run_that_stops_goes_on_with_as_many_ranks_to_the_same_bytes(tmp_path):
    """Buckets that are laid out anew after the first step would not; at 2 ranks none would see."""
    whole = resumed(tmp_path, (4, None), reduction="fast")
    assert resumed(tmp_path, (4, 6), (4, None), reduction="fast") == whole
