"""The sizes that rows are measured at."""

from typing import Any, Literal

import torch

from benchmarks.flops import Shape
from pipeline.methods.sedd.model import SEDD, SEDDConfig

Parameterization = Literal["raw", "conditional"]
GPT2_VOCAB = 50_257
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": GPT2_VOCAB, "width": 256, "length": 256},
    "char": {"vocab_size": 56, "width": 128, "length": 16},
}


def config_of(
    size: str, parameterization: Parameterization, vocab_size: int | None = None
) -> SEDDConfig:
    """A model of four blocks on the absorbing graph with the loglinear schedule.

    Args:
        vocab_size: in place of the size's own.
    """
    sizes = SIZES[size] | ({} if vocab_size is None else {"vocab_size": vocab_size})
    return SEDDConfig(
        graph="absorb",
        noise="loglinear",
        parameterization=parameterization,
        num_blocks=4,
        num_heads=4,
        cond_dim=128,
        dropout=0.0,
        eps=0.001,
        sigma_min=None,
        sigma_max=None,
        t_min=0.001,
        **sizes,
    )


def shape_of(config: SEDDConfig) -> Shape:
    """The sizes that decide how much arithmetic a model takes."""
    raw = config.parameterization == "raw"
    return Shape(
        width=config.width,
        num_blocks=config.num_blocks,
        num_outputs=config.vocab_size + raw,
        length=config.length,
        cond_dim=config.cond_dim if raw else None,
    )


def perturbed(model: SEDD) -> SEDD:
    """The model with noise added to its weights: new ones have heads and gates of zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return model
