"""Embedding diffusion as everyone else knows it: the functions of `methods.protocol.Method`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.methods.draws import FREE
from pipeline.methods.embedding.bound import draw_bound, noised_vectors
from pipeline.methods.embedding.loss import Denoising, squared_error
from pipeline.methods.embedding.model import EmbeddingConfig, EmbeddingDiffusion
from pipeline.methods.embedding.sampler import resolve, sample
from pipeline.methods.protocol import NO_LABELS, Noised

if TYPE_CHECKING:
    from pipeline.config.params import Params

__all__ = ["build", "draw_bound", "objective", "resolve", "sample"]

ARCHITECTURE = {
    "vocab_size": "the tokenizer's size",
    "length": "pack.length",
    "width": "model.width",
    "num_blocks": "model.num_blocks",
    "num_heads": "model.num_heads",
    "cond_dim": "model.cond_dim",
    "dim": "dim of the recipe",
    "input": "input of the recipe",
}
Config, build, objective = EmbeddingConfig, EmbeddingDiffusion, Denoising


def config_of(
    params: "Params", vocab_size: int, length: int, labels: Mapping[str, list[str]] = NO_LABELS
) -> EmbeddingConfig:
    """See Method."""
    if labels:
        raise ValueError("models of method embedding take no labels")
    recipe = params.embedding.chosen
    sizes = params.model.model_dump()
    if recipe.input == "evidence":
        # It tells the level by itself.
        sizes["cond_dim"] = None
    return EmbeddingConfig(vocab_size=vocab_size, length=length, **sizes, **recipe.model_dump())


def warm_started(config: EmbeddingConfig, found: EmbeddingConfig) -> EmbeddingConfig:
    """See Method: levels, clock, loss and shares may differ."""
    return config


def cannot_condition(model: EmbeddingDiffusion) -> str | None:
    """See Method."""
    if model.config.known > 0:
        return None
    return (
        "embedding.known is 0: this is no conditioning that was trained. The model never saw a "
        "known token, so its samples differ from its texts that hold them, at any number of steps"
    )


def likeliest(model: EmbeddingDiffusion, fixed: Tensor) -> Tensor:
    """See Method."""
    raise ValueError("embedding diffusion guesses from noise, so not twice the same")


def noised(model: EmbeddingDiffusion, x0: Tensor, t: float, generator: torch.Generator) -> Noised:
    """See Method; xt is what each position's own evidence makes likeliest."""
    g = model.clock.g(torch.tensor([t], dtype=torch.float64, device=x0.device))
    z, _ = noised_vectors(model, x0, g, generator)
    xt = (z @ model.network.vectors().T).argmax(-1)
    facts = {
        "g": f"{g.item():.6f}",
        "signal to noise": f"{torch.exp(-g).item():.6f} of a vector",
        "another token": f"{(xt != x0).double().mean().item():.0%} of positions are nearest to one",
    }
    return Noised(xt, z, facts)


def position_nats(
    model: EmbeddingDiffusion, x0: Tensor, noised: Noised, t: float
) -> tuple[Tensor, Tensor]:
    """See Method: the mean vectors, and the bound's integrand in nats a unit of time."""
    g, slope = model.clock.g_and_slope(torch.tensor([t], dtype=torch.float64, device=x0.device))
    mean = model.expect(noised.state, g, torch.full_like(x0, FREE), x0).mean
    error = squared_error(model.network.vectors()[x0], mean)
    return mean, error * (slope * model.level(g).snr / 2).to(error)
