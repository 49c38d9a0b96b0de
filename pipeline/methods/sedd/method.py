"""SEDD as everyone else knows it: the functions of `methods.protocol.Method`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.methods.draws import FREE
from pipeline.methods.protocol import NO_LABELS, Noised
from pipeline.methods.sedd.bound import draw_bound
from pipeline.methods.sedd.graph import sample_transition
from pipeline.methods.sedd.loss import ScoreEntropy, score_entropy
from pipeline.methods.sedd.model import SEDD, SEDDConfig
from pipeline.methods.sedd.sampler import resolve, sample

if TYPE_CHECKING:
    from pipeline.config.params import Params

__all__ = ["build", "draw_bound", "objective", "resolve", "sample"]

ARCHITECTURE = {
    "graph": "diffusion.graph",
    "parameterization": "diffusion.absorb.parameterization, or that of diffusion.uniform",
    "vocab_size": "the tokenizer's size",
    "width": "model.width",
    "num_blocks": "model.num_blocks",
    "num_heads": "model.num_heads",
    "labels": "data.labels",
}
Config, build, objective = SEDDConfig, SEDD, ScoreEntropy


def config_of(
    params: "Params", vocab_size: int, length: int, labels: Mapping[str, list[str]] = NO_LABELS
) -> SEDDConfig:
    """See Method."""
    diffusion = params.diffusion
    variant = diffusion.absorb if diffusion.graph == "absorb" else diffusion.uniform
    return SEDDConfig(
        graph=diffusion.graph,
        noise=diffusion.noise,
        parameterization=variant.parameterization,
        vocab_size=vocab_size,
        length=length,
        **params.model.model_dump(),
        # Only the schedule in use: the other's values are no dependency of training.
        eps=diffusion.loglinear.eps if diffusion.noise == "loglinear" else None,
        sigma_min=diffusion.geometric.sigma_min if diffusion.noise == "geometric" else None,
        sigma_max=diffusion.geometric.sigma_max if diffusion.noise == "geometric" else None,
        t_min=diffusion.t_min,
        labels=dict(labels),
        label_dropout=params.train.label_dropout if labels else 0.0,
    )


def warm_started(config: SEDDConfig, found: SEDDConfig) -> SEDDConfig:
    """See Method: noise, dropout and t_min may differ, and so may the length."""
    return replace(config, scale_by_sigma=found.scale_by_sigma, norm_bias=found.norm_bias)


def cannot_condition(model: SEDD) -> str | None:
    """See Method."""
    if model.graph.mask_id is not None:
        return None
    return (
        "uniform graph: this is no conditioning. The model takes the fixed tokens for noised "
        "ones, so its samples differ from its texts that hold them, at any number of steps"
    )


@torch.no_grad()
def likeliest(model: SEDD, fixed: Tensor) -> Tensor:
    """See Method; a raw score is told the noise under which as many positions are masked."""
    if (mask_id := model.graph.mask_id) is None:
        raise ValueError(cannot_condition(model))
    is_free = fixed == FREE
    most = model.noise.sigma(torch.ones((), dtype=torch.float64, device=fixed.device))
    sigma = (-torch.log1p(-is_free.double().mean(-1))).clamp(max=most)
    xt = fixed.masked_fill(is_free, mask_id)
    log_score = model.log_score(xt, sigma.to(model.dtype), is_free)
    return fixed.masked_scatter(is_free, log_score[:, :mask_id].argmax(-1))


def noised(model: SEDD, x0: Tensor, t: float, generator: torch.Generator) -> Noised:
    """See Method."""
    sigma = model.noise.sigma(torch.tensor([t], dtype=torch.float64))
    xt = sample_transition(model.graph, x0.cpu(), sigma, generator).to(x0.device)
    mask_id = model.graph.mask_id
    facts = {
        "sigma": f"{sigma.item():.6f}",
        "move chance": f"{-torch.expm1(-sigma).item():.6f}",
        "mask id": "none: this graph has no mask" if mask_id is None else str(mask_id),
    }
    return Noised(xt, xt, facts)


def position_nats(model: SEDD, x0: Tensor, noised: Noised, t: float) -> tuple[Tensor, Tensor]:
    """See Method: the score, and the diffusion-weighted score entropy in nats a unit of time."""
    times = torch.tensor([t], dtype=torch.float64, device=x0.device)
    sigma = model.noise.sigma(times).to(next(model.parameters()).dtype)
    score = model.log_score(noised.xt, sigma).exp()
    return score, score_entropy(model, x0, noised.xt, times).positions
