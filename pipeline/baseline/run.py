"""The baseline trained as params.yaml says."""

import math

import torch
from transformers import GPT2LMHeadModel

from pipeline.baseline.gpt2 import NextToken, block_nats, new_baseline
from pipeline.config.training import Baseline
from pipeline.data.packed import Packed
from pipeline.device import pick_precision
from pipeline.kernels.precision import products_in
from pipeline.scale.world import ALONE, World
from pipeline.training.loop import Watch, fit
from pipeline.training.settings import Settings
from pipeline.training.state import TrainingState


def settings_of(params: Baseline, length: int, device: torch.device) -> Settings:
    """As many steps as `num_tokens` positions need, the last one begun counts.

    Raises:
        ParamsError: the device cannot compute in the precision asked for.
    """
    num_steps = math.ceil(params.num_tokens / (params.batch_size * length))
    shared = set(Settings.__annotations__) - {"num_steps", "precision"}
    precision = pick_precision(params.precision, device, "baseline.precision")
    return Settings(num_steps=num_steps, precision=precision, **params.model_dump(include=shared))


def train(
    params: Baseline,
    settings: Settings,
    packed: Packed,
    *,
    device: torch.device,
    state: TrainingState,
    world: World = ALONE,
) -> tuple[GPT2LMHeadModel, float]:
    """The trained model, the same on all ranks of `world`, and the seconds that it took."""
    meta = packed.meta
    model = new_baseline(
        params,
        vocab_size=meta.vocab_size,
        length=meta.length,
        start_id=meta.start_id,
        mode=meta.mode,
        seed=params.seed,
        device=device,
    )

    def held_out_nats() -> float:
        with products_in(settings.precision, device):
            return float(block_nats(model, held_out, batch_size=at_once, units=world)[0].mean())

    held_out = packed.some_held_out(params.eval_blocks)[:, len(meta.labels) :]
    at_once = settings.batch_size // settings.accumulate
    seconds = fit(
        NextToken(model),
        packed.train,
        settings,
        Watch(held_out_nats),
        device=device,
        state=state,
        desc="baseline",
        overlap=packed.overlaps,
        world=world,
    )
    return model, seconds
