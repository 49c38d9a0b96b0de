"""Samplers: the reversed process from t = 1 to t_min in `num_steps` steps, then the final denoise.

Within one step every position moves independently, so n steps are biased by O(1/n) even with the
exact score. Draws invert the cumulative distribution in float64 with a float64 uniform: outcomes
down to a probability of 2^-53 are drawn as often as they should be.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.sedd.model import SEDD

Predictor = Literal["analytic", "euler"]
OnState = Callable[[int, float, Tensor], None]
FREE = -1


@dataclass(frozen=True)
class Samples:
    """What a sampler returns.

    Attributes:
        tokens: clean tokens [B, L], int64, never a mask.
        nfe: network evaluations that included each sample [B], int64.
        calls: batched network calls.
    """

    tokens: Tensor
    nfe: Tensor
    calls: int


def categorical(probs: Tensor, generator: torch.Generator) -> Tensor:
    """Draw an index [...] from weights [..., V], not necessarily normalised."""
    cumulative = probs.double().cumsum(-1)
    total = cumulative[..., -1:]
    u = torch.rand(total.shape, dtype=torch.float64, device=probs.device, generator=generator)
    # A product that rounds up to the total would fall past the last state with any mass.
    below_total = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, below_total, right=True).squeeze(-1)


@torch.no_grad()
def sample(
    model: SEDD,
    num: int,
    *,
    num_steps: int,
    predictor: Predictor,
    generator: torch.Generator,
    length: int | None = None,
    fixed: Tensor | None = None,
    on_state: OnState | None = None,
) -> Samples:
    """Draw `num` sequences.

    Args:
        model: the score model, in eval mode.
        num: how many sequences.
        num_steps: steps from t = 1 to t_min; the final denoise comes on top.
        predictor: `euler` (tau-leaping, SEDD eq. 17) or `analytic` (Tweedie, SEDD eq. 19).
        generator: source of randomness, on the model's device.
        length: tokens a sequence, the model's own if None.
        fixed: tokens [L] that are imposed, FREE (-1) where the model decides. With absorb this
            conditions the model; with uniform the score takes them for noised tokens.
        on_state: called with (step, t, xt [num, L]) before each step and at the end.
    Returns:
        the samples.
    Raises:
        ValueError: num_steps below 1, a length past the model's, or fixed of another length.
    """
    length = model.length if length is None else length
    if num_steps < 1 or not 1 <= length <= model.length:
        raise ValueError(
            f"num_steps {num_steps} below 1, or length {length} not in 1..{model.length}"
        )
    if fixed is None:
        fixed = torch.full((length,), FREE)
    if fixed.shape != (length,):
        raise ValueError(f"fixed has shape {tuple(fixed.shape)}, expected ({length},)")
    fixed = fixed.to(generator.device)
    times = torch.linspace(1, model.t_min, num_steps + 1, dtype=torch.float64).to(generator.device)
    if model.conditional:
        return _sample_by_reveals(model, num, times, predictor, generator, fixed, on_state)
    return _sample_by_steps(model, num, times, predictor, generator, fixed, on_state)


def step_weights(
    model: SEDD, xt: Tensor, t: Tensor, next_t: Tensor, predictor: Predictor
) -> Tensor:
    """Weights [B, L, V] of the states one step earlier than t; negative entries mean 0.

    Args:
        model: the score model.
        xt: tokens [B, L].
        t: time now, a scalar.
        next_t: time after the step, less than t.
        predictor: the rule of the step.
    """
    sigma = model.noise.sigma(t)
    score = _score(model, xt, sigma)
    if predictor == "euler":
        rate = model.graph.reverse_rate(xt, score)
        return F.one_hot(xt, model.graph.num_states) + (t - next_t) * model.noise.dsigma(t) * rate
    return _tweedie(model, xt, score, sigma - model.noise.sigma(next_t))


def denoise_weights(model: SEDD, xt: Tensor, t: Tensor) -> Tensor:
    """Weights [B, L, V'] of the clean tokens given xt [B, L] at time t; absorb drops the mask."""
    if model.conditional:
        # The noise that is left makes no difference, and may be 0.
        tokens = F.one_hot(xt, model.graph.num_states)[..., :-1].double()
        return torch.where(
            (xt == model.graph.num_states - 1)[..., None], model.log_p(xt).double().exp(), tokens
        )
    sigma = model.noise.sigma(t)
    weights = _tweedie(model, xt, _score(model, xt, sigma), sigma)
    return weights if model.graph.mask_id is None else weights[..., : model.graph.mask_id]


def _score(model: SEDD, xt: Tensor, sigma: Tensor) -> Tensor:
    return model.log_score(xt, sigma.to(model.dtype).expand(len(xt))).double().exp()


def _tweedie(model: SEDD, xt: Tensor, score: Tensor, delta_sigma: Tensor) -> Tensor:
    delta_sigma = delta_sigma.to(score.dtype).expand(len(xt))
    staggered = model.graph.staggered_score(score, delta_sigma)
    return staggered * model.graph.transposed_transition(xt, delta_sigma)


def _sample_by_steps(
    model: SEDD,
    num: int,
    times: Tensor,
    predictor: Predictor,
    generator: torch.Generator,
    fixed: Tensor,
    on_state: OnState | None,
) -> Samples:
    xt = model.graph.sample_limit((num, len(fixed)), generator)
    xt = torch.where(fixed == FREE, xt, fixed)
    nfe = torch.zeros(num, dtype=torch.int64, device=xt.device)
    calls = 0
    for step in range(len(times)):
        if on_state is not None:
            on_state(step, float(times[step]), xt)
        rows = _unfinished(model, xt)
        if not len(rows):
            continue
        if step + 1 < len(times):
            weights = step_weights(model, xt[rows], times[step], times[step + 1], predictor)
        else:
            weights = denoise_weights(model, xt[rows], times[step])
        moved = categorical(weights.clamp(min=0), generator)
        xt = xt.index_copy(0, rows, torch.where(fixed == FREE, moved, fixed))
        nfe[rows] += 1
        calls += 1
    if on_state is not None:
        on_state(len(times), 0.0, xt)
    return Samples(xt, nfe, calls)


def _unfinished(model: SEDD, xt: Tensor) -> Tensor:
    """Rows that a step can still change: with absorb, those that hold a mask."""
    if model.graph.mask_id is None:
        return torch.arange(len(xt), device=xt.device)
    return (xt == model.graph.mask_id).any(-1).nonzero().squeeze(-1)


def reveal_chances(model: SEDD, times: Tensor, predictor: Predictor) -> Tensor:
    """Chance [n + 1] that a mask is revealed at each of n steps, or at last by the denoise.

    With the conditional parameterisation it depends on the times [n + 1] alone, and sums to 1.
    """
    sigma = model.noise.sigma(times)
    move_chance = -torch.expm1(-sigma)
    if predictor == "analytic":
        # All positions start as masks, so the move chance at t = 1 counts as 1.
        move_chance[0] = 1.0
        stay = move_chance[1:] / move_chance[:-1]
    else:
        rate = model.noise.dsigma(times) / torch.expm1(sigma)
        stay = (1 - (times[:-1] - times[1:]) * rate[:-1]).clamp(min=0)
    masked = torch.cat([torch.ones_like(stay[:1]), stay.cumprod(0), torch.zeros_like(stay[:1])])
    return masked[:-1] - masked[1:]


def _sample_by_reveals(
    model: SEDD,
    num: int,
    times: Tensor,
    predictor: Predictor,
    generator: torch.Generator,
    fixed: Tensor,
    on_state: OnState | None,
) -> Samples:
    """The same law with fewer calls: when each position is revealed needs no network.

    A row's k-th step that reveals anything runs in one batch with every other row's k-th.
    """
    mask_id = model.graph.num_states - 1
    free = (fixed == FREE).expand(num, -1)
    chances = reveal_chances(model, times, predictor).expand(num, len(fixed), -1)
    reveal_step = torch.where(free, categorical(chances, generator), -1)
    xt = torch.where(free, mask_id, fixed)
    turn = _turns(reveal_step)
    nfe = turn.amax(-1) + 1
    calls = int(nfe.max())
    for k in range(calls):
        rows = (nfe > k).nonzero().squeeze(-1)
        now = turn[rows] == k
        log_p = model.log_p(xt[rows])[now]
        revealed = xt[rows]
        revealed[now] = categorical(log_p.double().exp(), generator)
        xt[rows] = revealed
    if on_state is not None:
        for step, t in enumerate([*times.tolist(), 0.0]):
            on_state(step, t, torch.where(reveal_step < step, xt, mask_id))
    return Samples(xt, nfe, calls)


def _turns(reveal_step: Tensor) -> Tensor:
    """For each position, how many earlier reveals its row has had [B, L]; -1 for fixed ones."""
    ordered, order = reveal_step.sort(-1)
    is_new = torch.ones_like(ordered)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    is_new *= ordered >= 0
    return torch.empty_like(order).scatter(-1, order, is_new.cumsum(-1) - 1)
