"""The sizes that rows are measured at."""

from typing import Any, Literal, TypeVar

import torch

from benchmarks.flops import Shape
from pipeline.methods.protocol import Model
from pipeline.methods.sedd.model import SEDDConfig

AnyModel = TypeVar("AnyModel", bound=Model)

Parameterization = Literal["raw", "conditional"]
GPT2_VOCAB = 50_257
FOUR = {"num_blocks": 4, "num_heads": 4}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": GPT2_VOCAB, "width": 256, "length": 256, **FOUR},
    "char": {"vocab_size": 56, "width": 128, "length": 16, **FOUR},
}
# As published, for GPUs.
SIZES |= {
    "small": {"vocab_size": GPT2_VOCAB, "width": 768, "length": 1024}
    | {"num_blocks": 12, "num_heads": 12},
    "medium": {"vocab_size": GPT2_VOCAB, "width": 1024, "length": 1024}
    | {"num_blocks": 24, "num_heads": 16},
    "tiny": {"vocab_size": 301, "width": 64, "length": 32, "num_blocks": 2, "num_heads": 2},
}


def config_of(
    size: str, parameterization: Parameterization, vocab_size: int | None = None
) -> SEDDConfig:
    """A model on the absorbing graph with the loglinear schedule.

    Args:
        vocab_size: in place of the size's own.
    """
    sizes = SIZES[size] | ({} if vocab_size is None else {"vocab_size": vocab_size})
    return SEDDConfig(
        graph="absorb",
        noise="loglinear",
        parameterization=parameterization,
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


def perturbed(model: AnyModel) -> AnyModel:
    """The model with noise added to its weights: new ones have heads and gates of zero."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, device=device)
            parameter.add_(noise, alpha=0.02)
    return model
