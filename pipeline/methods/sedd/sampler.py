"""Samplers: the reversed process from t = 1 to t_min in `num_steps` steps, then the final denoise.

Within one step every position moves independently, so n steps are biased by O(1/n) even with the
exact score; `first_hitting` reveals one position at a time and is not.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.methods.draws import (
    FREE,
    OnState,
    Samples,
    Sharpening,
    asked_for,
    check_sharpening,
    uniform,
)
from pipeline.methods.sedd.draw import Predictor, Weigh, draw_at, moved
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.reveal import sample_by_reveals, token_weights
from pipeline.network.layers import places


def resolve(
    model: SEDD,
    predictor: Predictor | Literal["auto"],
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Predictor:
    """The sampler that is used: `auto` is `cached` where the score is conditional, else `analytic`.

    Raises:
        ValueError: the model has no such sampler, or a value is out of range.
    """
    allowed = ["analytic", "euler"] + ["cached", "first_hitting"] * model.conditional
    if predictor != "auto" and predictor not in allowed:
        raise ValueError(
            f"predictor must be auto, {', '.join(allowed[:-1])} or {allowed[-1]} with the "
            f"{model.config.parameterization} parameterization of this model (got {predictor})"
        )
    check_sharpening(temperature, top_p)
    if model.graph.mask_id is None and (temperature, top_p) != (1, 1):
        raise ValueError(
            "temperature and top_p must be 1 with the uniform graph: they act on a token that is "
            f"revealed, and it reveals none (got {temperature} and {top_p})"
        )
    if predictor != "auto":
        return predictor
    return "cached" if model.conditional else "analytic"


@torch.inference_mode()
def sample(
    model: SEDD,
    num: int,
    *,
    num_steps: int,
    predictor: Predictor | Literal["auto"],
    generator: torch.Generator,
    length: int | None = None,
    fixed: Tensor | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    on_state: OnState | None = None,
) -> Samples:
    """Draw `num` sequences.

    Args:
        model: the score model, in eval mode.
        num: how many sequences.
        num_steps: steps from t = 1 to t_min; the final denoise comes on top. `first_hitting` does
            the same whatever it is.
        predictor: `euler` (tau-leaping, SEDD eq. 17) or `analytic` (Tweedie, SEDD eq. 19); with
            the conditional parameterisation also `cached`, which has the law of `analytic`, and
            `first_hitting`, which takes one position at a time (arXiv 2409.02908); `auto` as in
            `resolve`.
        generator: source of randomness, on the model's device.
        length: tokens a sequence, the model's own if None.
        fixed: tokens [L] that are imposed, FREE (-1) where the model decides. With absorb this
            conditions the model; with uniform the score takes them for noised tokens.
        temperature: the token that is revealed has its probabilities to the power 1 / temperature.
        top_p: then only the likeliest tokens that together hold this share can be drawn.
        on_state: called with (step, t, xt [num, L]) before each step and at the end.
    Returns:
        the samples; their tensors, as those of `on_state`, are of inference mode: autograd takes
        clones of them alone.
    Raises:
        ValueError: num_steps below 1, a length past the model's, fixed of another length, or what
            `resolve` refuses.
    """
    fixed = asked_for(model.length, num_steps, length, fixed)
    fixed = fixed.to(generator.device)
    predictor = resolve(model, predictor, temperature, top_p)
    sharpening = Sharpening(model.config.vocab_size, temperature, top_p)
    times = torch.linspace(1, model.t_min, num_steps + 1, dtype=torch.float64)
    by = sample_by_reveals if model.conditional else sample_by_steps
    return by(model, num, times, predictor, generator, fixed, sharpening, on_state)


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
    score = _score(model, xt, model.noise.sigma(t))
    return _moved(model, xt, score, t, next_t, predictor)


def denoise_weights(model: SEDD, xt: Tensor, t: Tensor, at: Tensor | None = None) -> Tensor:
    """Weights of the clean tokens given xt [B, L] at time t; absorb drops the mask.

    They are [B, L, V'], or [N, V'] of the N positions that `at` [B, L] marks.
    """
    here = xt if at is None else xt[at]
    if model.conditional:
        # The noise that is left makes no difference, and may be 0.
        tokens = F.one_hot(here, model.graph.num_states)[..., :-1].double()
        return torch.where(
            (here == model.graph.num_states - 1)[..., None],
            model.log_p(xt, at).double().exp(),
            tokens,
        )
    sigma = model.noise.sigma(t)
    weights = _tweedie(model, here, _score(model, xt, sigma, at), sigma)
    return weights if model.graph.mask_id is None else weights[..., : model.graph.mask_id]


def _score(model: SEDD, xt: Tensor, sigma: Tensor, at: Tensor | None = None) -> Tensor:
    return model.log_score(xt, sigma.to(model.dtype).expand(len(xt)), at).double().exp()


def _moved(
    model: SEDD, xt: Tensor, score: Tensor, t: Tensor, next_t: Tensor, predictor: Predictor
) -> Tensor:
    """`step_weights` from the score [B, L, V]."""
    if predictor == "euler":
        rate = model.graph.reverse_rate(xt, score)
        return F.one_hot(xt, model.graph.num_states) + (t - next_t) * model.noise.dsigma(t) * rate
    return _tweedie(model, xt, score, model.noise.sigma(t) - model.noise.sigma(next_t))


def _tweedie(model: SEDD, xt: Tensor, score: Tensor, delta_sigma: Tensor) -> Tensor:
    delta_sigma = delta_sigma.to(score.dtype).expand(len(xt))
    staggered = model.graph.staggered_score(score, delta_sigma)
    return staggered * model.graph.transposed_transition(xt, delta_sigma)


def sample_by_steps(
    model: SEDD,
    num: int,
    times: Tensor,
    predictor: Predictor,
    generator: torch.Generator,
    fixed: Tensor,
    sharpening: Sharpening,
    on_state: OnState | None,
) -> Samples:
    """Draw as `sample` says; every row that a step can change is evaluated."""
    device, free = fixed.device, (fixed == FREE).cpu()
    xt = model.graph.sample_limit((num, len(fixed)), generator)
    xt = torch.where(fixed == FREE, xt, fixed)
    nfe = torch.zeros(num, dtype=torch.int64, device=device)
    calls, times_there = 0, times.to(device)
    with model.network.recording():
        for step in range(len(times)):
            if on_state is not None:
                on_state(step, float(times[step]), xt)
            if model.graph.mask_id is None:
                rows, now, at = None, xt, free.expand_as(xt)
                weigh = moves(model, times_there[step:], predictor)
                nfe += 1
            else:
                unfinished = (xt == model.graph.mask_id).any(-1)
                rows = unfinished.nonzero().squeeze(-1)
                if not len(rows):
                    continue
                now = xt[rows]
                at = now == model.graph.mask_id
                weigh = reveals(model, times[step:], predictor)
                nfe += unfinished
            here = moved(places(at), device)
            sigma = moved(model.noise.sigma(times[step : step + 1]).to(model.dtype), device)
            u = uniform(tuple(now.shape), generator).flatten().index_select(0, here)
            drawn, num_calls = draw_at(model, now, sigma, at, weigh, u, sharpening)
            after = now.flatten().index_copy(0, here, drawn).view_as(now)
            xt = after if rows is None else xt.index_copy(0, rows, after)
            calls += num_calls
    if on_state is not None:
        on_state(len(times), 0.0, xt)
    return Samples(xt, nfe, calls)


def moves(model: SEDD, times: Tensor, predictor: Predictor) -> Weigh:
    """Weights of the first step of `times`, of the final denoise if there is one time alone.

    They are those of `step_weights` and `denoise_weights`, for the uniform graph.
    """

    def weigh(outputs: Tensor, here: Tensor) -> Tensor:
        xt = here[None]
        score = outputs[None].scatter(-1, xt[..., None], 0.0).double().exp()
        if len(times) == 1:
            return _tweedie(model, xt, score, model.noise.sigma(times[0]))[0]
        return _moved(model, xt, score, times[0], times[1], predictor)[0]

    return weigh


def reveals(model: SEDD, times: Tensor, predictor: Predictor) -> Weigh:
    """As `moves`, for the masks of the absorbing graph, its formulas multiplied out.

    By either rule a mask takes a token with weight c * score, and stays with what is left to 1.
    Euler's c is dsigma times the step. Tweedie's is expm1(delta_sigma): at the mask, eq. 19 has
    e^(delta_sigma) score - expm1(delta_sigma) sum(score), the second term for the mask alone,
    times 1 - e^(-delta_sigma) for tokens and 1 for the mask.
    """
    if len(times) == 1:
        return lambda outputs, here: token_weights(outputs[:, :-1], here)
    sigma = model.noise.sigma(times[0])
    if predictor == "euler":
        c = (times[0] - times[1]) * model.noise.dsigma(times[0])
    else:
        c = torch.expm1(sigma - model.noise.sigma(times[1]))
    log_scale = float(c.log() - model.log_shift(sigma))

    def weigh(outputs: Tensor, here: Tensor) -> Tensor:
        weights = outputs.add_(log_scale).exp_()
        weights[:, -1] = 0
        weights[:, -1] = 1 - weights.sum(-1)
        return weights

    return weigh
