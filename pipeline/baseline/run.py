"""The baseline trained as params.yaml says."""

import math

import torch
from transformers import GPT2LMHeadModel

from pipeline.baseline.gpt2 import NextToken, block_nats, new_baseline
from pipeline.config.params import Baseline
from pipeline.data.packed import Packed
from pipeline.training.loop import Fitted, Settings, Watch, fit
from pipeline.training.state import TrainingState


def settings_of(params: Baseline, length: int) -> Settings:
    """As many steps as `num_tokens` positions need, the last one begun counts."""
    num_steps = math.ceil(params.num_tokens / (params.batch_size * length))
    shared = set(Settings.__annotations__) - {"num_steps"}
    return Settings(num_steps=num_steps, **params.model_dump(include=shared))


def train(
    params: Baseline,
    settings: Settings,
    packed: Packed,
    *,
    device: torch.device,
    state: TrainingState,
) -> tuple[GPT2LMHeadModel, Fitted]:
    """The trained model, with what was logged."""
    meta = packed.meta
    model = new_baseline(
        params,
        vocab_size=meta.vocab_size,
        length=meta.length,
        eos_id=meta.eos_id,
        mode=meta.mode,
        seed=params.seed,
        device=device,
    )
    # Evenly spread: a split in alphabetical order begins with names of one kind.
    held_out = packed.test[:: max(1, len(packed.test) // params.eval_blocks)][: params.eval_blocks]
    fitted = fit(
        NextToken(model),
        packed.train,
        settings,
        Watch(lambda: block_nats(model, held_out, batch_size=params.batch_size)[0].mean().item()),
        device=device,
        state=state,
        desc="baseline",
    )
    return model, fitted
