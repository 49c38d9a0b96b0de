"""The plain formulation, as the public code of the method computes it: the bench's opponent.

The head runs on every position, the scores [B, L, V] are kept, and each step calls the network on
every row. The formulas are written out here from the papers, so that tests can hold the product's
faster ones against them.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain_network import PlainTransformer
from pipeline.methods.sedd.graph import Graph, sample_transition
from pipeline.methods.sedd.model import SEDD, SEDDConfig
from pipeline.methods.sedd.noise import Noise


class Plain(Protocol):
    """What the functions here need of a model; the product's own SEDD has it too."""

    @property
    def network(self) -> torch.nn.Module: ...
    @property
    def noise(self) -> Noise: ...
    @property
    def graph(self) -> Graph: ...
    @property
    def config(self) -> SEDDConfig: ...


def plain_model(config: SEDDConfig) -> SEDD:
    """A model whose network is the plain one."""
    model = SEDD(config)
    conditional = config.parameterization == "conditional"
    network = PlainTransformer(
        num_states=model.graph.num_states,
        num_outputs=config.vocab_size if conditional else model.graph.num_states,
        width=config.width,
        num_blocks=config.num_blocks,
        num_heads=config.num_heads,
        cond_dim=None if conditional else config.cond_dim,
        num_positions=config.length if conditional else None,
    )
    network.load_state_dict(model.network.state_dict())
    model.network = network  # type: ignore[assignment]
    return model


def plain_log_p(model: Plain, xt: Tensor) -> Tensor:
    """Log probability [B, L, V - 1] of each clean token at every position of xt [B, L]."""
    output = model.network(xt)
    return output.to(torch.promote_types(output.dtype, torch.float32)).log_softmax(-1)


def plain_log_score(model: Plain, xt: Tensor, sigma: Tensor) -> Tensor:
    """Log score [B, L, V] of the raw parameterisation at sigma [B], SEDD appendix C.2."""
    output = model.network(xt, sigma)
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    if model.config.graph == "absorb" and model.config.scale_by_sigma:
        scale = torch.expm1(sigma).log() + math.log(model.graph.num_states - 1)
        output = output - scale[:, None, None].to(output.dtype)
    return output.scatter(-1, xt[..., None], 0.0)


def plain_score_entropy(model: Plain, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """Diffusion-weighted score entropy [B, L] of xt at times t [B], SEDD eq. 10."""
    sigma, dsigma = model.noise.sigma(t), model.noise.dsigma(t)
    if model.config.parameterization == "conditional":
        nats = F.nll_loss(plain_log_p(model, xt).flatten(0, 1), x0.flatten(), reduction="none")
        nats = torch.where(xt == model.graph.num_states - 1, nats.view_as(x0), 0.0)
        return (dsigma / torch.expm1(sigma))[:, None].to(nats.dtype) * nats
    log_score = plain_log_score(model, xt, sigma.to(_at_least_float32(model)))
    entropy = absorb_entropy if model.config.graph == "absorb" else uniform_entropy
    weighted = entropy(log_score, x0, xt, sigma.to(log_score.dtype)[:, None])
    return dsigma[:, None].to(log_score.dtype) * weighted


def plain_conditional_loss(model: Plain, x0: Tensor, xt: Tensor) -> Tensor:
    """Cross-entropy at masks times (L + 1) / their number, nats a sequence [B]."""
    is_mask = xt == model.graph.num_states - 1
    nats = F.nll_loss(plain_log_p(model, xt).flatten(0, 1), x0.flatten(), reduction="none")
    weight = (x0.shape[1] + 1) / is_mask.sum(-1).clamp(min=1).to(nats.dtype)
    return weight * torch.where(is_mask, nats.view_as(x0), 0.0).sum(-1)


def absorb_entropy(log_score: Tensor, x0: Tensor, xt: Tensor, sigma: Tensor) -> Tensor:
    """Denoising score entropy [B, L], SEDD eq. 8: only masks have one; sigma [B, 1]."""
    ratio = 1 / torch.expm1(sigma)
    positive = log_score[..., :-1].exp().sum(-1)
    negative = ratio * log_score.gather(-1, x0[..., None]).squeeze(-1)
    constant = ratio * (ratio.log() - 1)
    return torch.where(xt == log_score.shape[-1] - 1, positive - negative + constant, 0.0)


def uniform_entropy(log_score: Tensor, x0: Tensor, xt: Tensor, sigma: Tensor) -> Tensor:
    """Denoising score entropy [B, L], SEDD eq. 8: over every state but xt; sigma [B, 1]."""
    num_states = log_score.shape[-1]
    moved = -torch.expm1(-sigma)[..., None] / num_states
    transition = F.one_hot(x0, num_states) * (-sigma).exp()[..., None] + moved
    ratio = transition / transition.gather(-1, xt[..., None])
    terms = log_score.exp() - ratio * log_score + ratio * (ratio.log() - 1)
    return terms.scatter(-1, xt[..., None], 0.0).sum(-1) / num_states


def plain_weights(model: Plain, xt: Tensor, t: Tensor, next_t: Tensor | None) -> Tensor:
    """Weights [B, L, V] of the states at `next_t`, by Tweedie's rule (SEDD eq. 19).

    Without `next_t` they are those of the final denoise, to no noise at all.
    """
    sigma = model.noise.sigma(t)
    delta = sigma if next_t is None else sigma - model.noise.sigma(next_t)
    dtype = _at_least_float32(model)
    if model.config.parameterization == "conditional":
        stay = 0.0 if next_t is None else _stay_chance(sigma, sigma - delta)
        return _revealed(model, xt, stay)
    score = plain_log_score(model, xt, sigma.to(dtype).expand(len(xt))).exp()
    grow, moved = delta.exp().to(dtype), -torch.expm1(-delta).to(dtype)
    stayed = (-delta).exp().to(dtype).expand(*xt.shape, 1)
    if model.config.graph == "absorb":
        mask_id = model.graph.num_states - 1
        extra = (1 - grow) * score.sum(-1)
        weights = score * grow
        weights[..., mask_id] += extra
        transition = torch.where(xt == mask_id, moved, 0.0)[..., None].expand_as(score)
    else:
        weights = score * grow + (1 - grow) * score.mean(-1, keepdim=True)
        transition = (moved / model.graph.num_states).expand_as(score)
    weights *= transition.scatter_add(-1, xt[..., None], stayed)
    if next_t is None and model.config.graph == "absorb":
        return weights[..., :-1]
    return weights


def _stay_chance(sigma: Tensor, next_sigma: Tensor) -> float:
    """Chance of a mask at noise sigma to be one still at next_sigma."""
    return float(torch.expm1(-next_sigma) / torch.expm1(-sigma))


def _revealed(model: Plain, xt: Tensor, stay: float) -> Tensor:
    """Weights of the conditional parameterisation: a mask stays, or takes a token by log_p."""
    p = plain_log_p(model, xt).exp()
    reveal = F.pad(p * (1 - stay), (0, 1), value=stay)
    is_mask = (xt == model.graph.num_states - 1)[..., None]
    kept = F.one_hot(xt, model.graph.num_states).to(p.dtype)
    return torch.where(is_mask, reveal, kept)


def plain_draw(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw an index [B, L] from weights [B, L, V] by Gumbel's trick, in the weights' own dtype.

    For timing: in float32 it loses states of less than 2^-24 of all. PyTorch's own exponential
    draw takes up to four times as long on a CPU as a uniform one and its logarithm.
    """
    noise = torch.empty_like(weights).uniform_(generator=generator).log_().neg_()
    return torch.div(weights, noise, out=noise).argmax(-1)


@torch.no_grad()
def plain_sample(
    model: Plain, num: int, num_steps: int, generator: torch.Generator, first: int | None = None
) -> Tensor:
    """Draw `num` sequences [num, L] in `num_steps` steps and the final denoise.

    Args:
        first: stop after so many network calls, which all cost the same: for timing alone.
    """
    t_min = 0.0 if model.config.parameterization == "conditional" else model.config.t_min
    times = torch.linspace(1, t_min, num_steps + 1, dtype=torch.float64)
    xt = model.graph.sample_limit((num, model.config.length), generator)
    for step in range(num_steps + 1 if first is None else first):
        next_t = times[step + 1] if step < num_steps else None
        xt = plain_draw(plain_weights(model, xt, times[step], next_t), generator)
    return xt


@torch.no_grad()
def plain_bound(
    model: Plain, x0: Tensor, num_draws: int, batch_size: int, generator: torch.Generator
) -> Tensor:
    """Nats of each text x0 [N, L], raw score: the integral by uniform times, and the last step."""
    t_min, nats = model.config.t_min, []
    for rows in torch.split(x0, batch_size):
        total = torch.zeros(len(rows), dtype=torch.float64)
        for _ in range(num_draws):
            t = torch.rand(len(rows), dtype=torch.float64, generator=generator)
            t = t_min + (1 - t_min) * t
            xt = sample_transition(model.graph, rows, model.noise.sigma(t), generator)
            positions = plain_score_entropy(model, rows, xt, t)
            total += (1 - t_min) * positions.double().sum(-1) / num_draws
        last = torch.tensor(t_min, dtype=torch.float64)
        sigma = model.noise.sigma(last).expand(len(rows))
        xt = sample_transition(model.graph, rows, sigma, generator)
        weights = plain_weights(model, xt, last, None).clamp(min=0)
        chance = weights.gather(-1, rows[..., None]).squeeze(-1) / weights.sum(-1)
        nats.append(total - chance.log().double().sum(-1))
    return torch.cat(nats)


def _at_least_float32(model: Plain) -> torch.dtype:
    return torch.promote_types(next(model.network.parameters()).dtype, torch.float32)
