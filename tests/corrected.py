"""Exact laws of samplers that take tokens back or choose an order, from their definitions."""

import itertools
import math
from collections.abc import Callable

import torch
from chains import impose, kernel
from torch import Tensor
from toy import all_states, index_of, rates_of

from pipeline.methods.samplers import Stepping
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.schedule import kappas, step_times

Same = Callable[[Tensor], Tensor]


def denoiser(model: SEDD, states: Tensor, sigma: Tensor) -> Tensor:
    """p(x0 | xt) [S, L, V] of every state [S, L]; a token that absorb left is itself."""
    p = model.log_p(states, sigma=sigma.expand(len(states))).double().exp()
    if not model.timeless:
        return p
    tokens = torch.nn.functional.one_hot(states, model.graph.num_states)[..., :-1].double()
    return torch.where((states == model.graph.mask_id)[..., None], p, tokens)


def step_by_definition(
    model: SEDD, p: Tensor, states: Tensor, sigma: Tensor, next_sigma: Tensor, kappa: Tensor
) -> Tensor:
    """kappa q(xs | xt, x0) + (1 - kappa) q(xs | x0) [S, L, V'], in the mean over p [S, L, V].

    By Bayes' rule q(xs | xt, x0) = p(xt | xs) p(xs | x0) / p(xt | x0), each a matrix exponential.
    """
    rate, size = rates_of(model.graph), model.config.vocab_size
    now, after, between = (
        torch.matrix_exp(amount * rate) for amount in (sigma, next_sigma, sigma - next_sigma)
    )
    reached = now[:size, :, None]  # [x0, xt, 1]
    posterior = after[:size, None] * between.T / torch.where(reached > 0, reached, torch.inf)
    ancestral = torch.einsum("slx,xsly->sly", p, posterior[:, states])
    return kappa * ancestral + (1 - kappa) * p @ after[:size]


def corrected_law(
    model: SEDD,
    num_steps: int,
    stepping: Stepping,
    fixed: Tensor | None = None,
    change: Same = lambda p: p,
) -> Tensor:
    """The law over clean sequences of n steps by a schedule of kappa, and the final denoise."""
    size, length = model.graph.num_states, model.length
    states, clean = all_states(size, length), all_states(model.config.vocab_size, length)
    times = step_times(model, num_steps, stepping)
    law = impose(beginning(model, states), states, fixed, size)
    sigma = model.noise.sigma(times)
    for step, kappa in enumerate(kappas(model, times, stepping)):
        p = change(denoiser(model, states, sigma[step]))
        p = p / p.sum(-1, keepdim=True)
        weights = step_by_definition(model, p, states, sigma[step], sigma[step + 1], kappa)
        law = impose(law @ kernel(weights, states), states, fixed, size)
        law = law @ sweep_law(model, states, sigma[step + 1], stepping)
    p = change(denoiser(model, states, sigma[-1]))
    return impose(law @ kernel(p, clean), clean, fixed, model.config.vocab_size)


def beginning(model: SEDD, states: Tensor) -> Tensor:
    """The law [S] that samplers start from."""
    mask_id = model.graph.mask_id
    alone = torch.ones(len(states)) if mask_id is None else (states == mask_id).all(-1)
    return alone.double() / alone.sum()


def one_position(model: SEDD, states: Tensor, sigma: Tensor) -> list[Tensor]:
    """For each position the matrix [S, S] that draws it anew by the score, 1 at what is there."""
    score = model.log_score(states, sigma.expand(len(states))).double().exp()
    share = score / score.sum(-1, keepdim=True)
    found = []
    for place in range(states.shape[1]):
        matrix = torch.zeros(len(states), len(states), dtype=torch.float64)
        for token in range(model.graph.num_states):
            target = states.clone()
            target[:, place] = token
            matrix[torch.arange(len(states)), index_of(target, model.graph.num_states)] += share[
                :, place, token
            ]
        found.append(matrix)
    return found


def sweep_law(model: SEDD, states: Tensor, sigma: Tensor, stepping: Stepping) -> Tensor:
    """What is redrawn after a step: a matrix [S, S]."""
    same = torch.eye(len(states), dtype=torch.float64)
    if stepping.corrector == "gibbs":
        mean = torch.stack(one_position(model, states, sigma)).mean(0)
        return torch.linalg.matrix_power(mean, stepping.num_redrawn)
    if stepping.corrector == "low_confidence":
        score = model.log_score(states, sigma.expand(len(states))).double().exp()
        share = score / score.sum(-1, keepdim=True)
        there = share.gather(-1, states[..., None]).squeeze(-1)
        worst = there.argsort(dim=-1, stable=True)[:, : stepping.num_redrawn]
        redrawn = torch.zeros_like(states).scatter(1, worst, 1).bool()
        stays = torch.nn.functional.one_hot(states, model.graph.num_states).double()
        return kernel(torch.where(redrawn[..., None], share, stays), states)
    return same


def law_of_conf(model: SEDD, num_steps: int, stepping: Stepping) -> Tensor:
    """The law of corrector `conf`: states hold tokens and the chances that these were drawn with.

    Written out position by position, with ReMDM's own formula for what is taken back.
    """
    mask_id, length = model.graph.num_states - 1, model.length
    times = step_times(model, num_steps, stepping)
    alpha = [*(-model.noise.sigma(times)).exp().tolist(), 1.0]
    law = {((mask_id,) * length, (0.0,) * length): 1.0}
    for step in range(num_steps + 1):
        now, after = alpha[step], alpha[step + 1]
        is_last = step == num_steps
        stay = 0.0 if is_last else (1 - after) / (1 - now)
        largest = 0.0 if is_last else stepping.eta * min(1.0, (1 - after) / now)
        moved: dict = {}
        for (tokens, chances), mass in law.items():
            p = model.log_p(torch.tensor([tokens])).exp()[0].tolist()
            weights = [math.exp(-chance) for chance in chances]
            total = sum(w for w, token in zip(weights, tokens, strict=True) if token != mask_id)
            options = []
            for place, token in enumerate(tokens):
                if token == mask_id:
                    drawn = [((v, q), (1 - stay) * q) for v, q in enumerate(p[place])]
                    options.append([*drawn, ((mask_id, 0.0), stay)])
                else:
                    back = largest * weights[place] / total
                    kept = ((token, chances[place]), 1 - back)
                    options.append([kept, ((mask_id, 0.0), back)])
            for each in itertools.product(*options):
                chance = mass
                for _, share in each:
                    chance *= share
                if chance:
                    key = tuple(zip(*(state for state, _ in each), strict=True))
                    moved[key] = moved.get(key, 0.0) + chance
        law = moved
    found = torch.zeros(model.config.vocab_size**length, dtype=torch.float64)
    for (tokens, _), mass in law.items():
        found[index_of(torch.tensor([tokens]), model.config.vocab_size)] += mass
    return found
