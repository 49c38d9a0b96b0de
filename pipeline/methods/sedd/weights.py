"""Weights that samplers draw states with: of a step, of the final denoise, of a sweep."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.methods.draws import Sharpening
from pipeline.methods.sedd import uniform_x0
from pipeline.methods.sedd.draw import Predictor, Weigh
from pipeline.methods.sedd.model import SEDD


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
    if model.conditional and not model.timeless and predictor != "euler":
        p = model.log_p(xt, sigma=_of_rows(model, xt, sigma)).double().exp()
        return uniform_x0.corrected(p, xt, sigma, model.noise.sigma(next_t))
    return _moved(model, xt, _score(model, xt, sigma), t, next_t, predictor)


def denoise_weights(model: SEDD, xt: Tensor, t: Tensor, at: Tensor | None = None) -> Tensor:
    """Weights of the clean tokens given xt [B, L] at time t; absorb drops the mask.

    They are [B, L, V'], or [N, V'] of the N positions that `at` [B, L] marks.
    """
    here = xt if at is None else xt[at]
    sigma = model.noise.sigma(t)
    if model.timeless:
        # The noise that is left makes no difference, and may be 0.
        tokens = F.one_hot(here, model.graph.num_states)[..., :-1].double()
        return torch.where(
            (here == model.graph.num_states - 1)[..., None],
            model.log_p(xt, at).double().exp(),
            tokens,
        )
    if model.conditional:
        return model.log_p(xt, at, _of_rows(model, xt, sigma)).double().exp()
    weights = _tweedie(model, here, _score(model, xt, sigma, at), sigma)
    return weights if model.graph.mask_id is None else weights[..., : model.graph.mask_id]


def _score(model: SEDD, xt: Tensor, sigma: Tensor, at: Tensor | None = None) -> Tensor:
    return model.log_score(xt, _of_rows(model, xt, sigma), at).double().exp()


def _of_rows(model: SEDD, xt: Tensor, sigma: Tensor) -> Tensor:
    return sigma.to(model.dtype).expand(len(xt))


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


def moves(
    model: SEDD,
    times: Tensor,
    predictor: Predictor,
    sharpening: Sharpening,
    kappa: Tensor | float = 1.0,
) -> Weigh:
    """Weights of the first step of `times`, of the final denoise if there is one time alone.

    They are those of `step_weights` and `denoise_weights`, for the uniform graph; by x0, kappa
    below 1 corrects, as in `uniform_x0.corrected`.
    """
    sigma = model.noise.sigma(times[0])
    score_of = scores(model, sigma, sharpening)

    def weigh(outputs: Tensor, here: Tensor) -> Tensor:
        if not model.conditional or (predictor == "euler" and len(times) > 1):
            xt, score = here[None], score_of(outputs, here)[None]
            if len(times) == 1:
                return _tweedie(model, xt, score, sigma)[0]
            return _moved(model, xt, score, times[0], times[1], predictor)[0]
        p = _sharpened_p(outputs, here, sigma, sharpening)
        if len(times) == 1:
            return p
        return uniform_x0.corrected(p, here, sigma, model.noise.sigma(times[1]), kappa)

    return weigh


def scores(model: SEDD, sigma: Tensor, sharpening: Sharpening) -> Weigh:
    """The score as weights, for the uniform graph: the law of a position given all others.

    At noise sigma p(xt with y at a position) is the score of y times p(xt), so that to draw y by
    the score leaves the law at that time as it is, one position at a time (Gibbs).
    """

    def weigh(outputs: Tensor, here: Tensor) -> Tensor:
        if model.conditional:
            p = _sharpened_p(outputs, here, sigma, sharpening)
            return uniform_x0.score(p, here, sigma)
        return outputs.scatter(-1, here[..., None], 0.0).double().exp()

    return weigh


def _sharpened_p(outputs: Tensor, here: Tensor, sigma: Tensor, sharpening: Sharpening) -> Tensor:
    """p(x0 | xt) [n, V] of a network by x0 on the uniform graph."""
    return sharpening(uniform_x0.log_p(outputs.double(), here, sigma.expand(len(here))).exp())


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


def token_weights(outputs: Tensor, _: Tensor) -> Tensor:
    """Outputs [n, V] as weights whose largest is 1: their sum makes no difference to a draw."""
    return outputs.sub_(outputs.amax(-1, keepdim=True)).exp_()
