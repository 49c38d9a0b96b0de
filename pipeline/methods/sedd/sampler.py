"""Samplers: the reversed process from t = 1 to t_min in `num_steps` steps, then the final denoise.

Within one step every position moves independently, so n steps are biased by O(1/n) even with the
exact score; `first_hitting` reveals one position at a time and is not.
"""

from typing import Literal

import torch
from torch import Tensor

from pipeline.methods.draws import OnState, Samples, Sharpening, asked_for
from pipeline.methods.samplers import (
    PLAIN,
    UNCONDITIONAL,
    Conditioning,
    Stepping,
    label_misuses,
    misuses,
)
from pipeline.methods.sedd.draw import Predictor, Task
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.order import sample_in_order
from pipeline.methods.sedd.remask import sample_by_confidence, sample_by_timetable
from pipeline.methods.sedd.reveal import sample_by_reveals
from pipeline.methods.sedd.schedule import step_times
from pipeline.methods.sedd.stepwise import sample_by_steps


def resolve(
    model: SEDD,
    predictor: Predictor | Literal["auto"],
    temperature: float = 1.0,
    top_p: float = 1.0,
    stepping: Stepping = PLAIN,
    conditioning: Conditioning = UNCONDITIONAL,
) -> Predictor:
    """The sampler that is used: `auto` is `cached` where the network is timeless, else `analytic`.

    Raises:
        ValueError: the model has no such sampler, or a value is out of range; all that is wrong.
    """
    config = model.config
    kind = f"{config.graph} {config.parameterization}"
    called = f"the {config.parameterization} parameterization of graph {config.graph}"
    found = misuses(kind, called, predictor, temperature, top_p, stepping)
    if found := found + label_misuses(model.labels, conditioning):
        raise ValueError("; ".join(found))
    if predictor != "auto":
        return predictor
    return "cached" if model.timeless else "analytic"


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
    stepping: Stepping = PLAIN,
    conditioning: Conditioning = UNCONDITIONAL,
    on_state: OnState | None = None,
) -> Samples:
    """Draw `num` sequences.

    Args:
        model: the score model, in eval mode.
        num: how many sequences.
        num_steps: steps from t = 1 to t_min; the final denoise comes on top. `first_hitting` does
            the same whatever it is.
        predictor: `euler` (tau-leaping, SEDD eq. 17) or `analytic` (Tweedie, SEDD eq. 19); with
            a timeless network also `cached`, which has the law of `analytic`, and
            `first_hitting`, which takes one position at a time (arXiv 2409.02908); `auto` as in
            `resolve`.
        generator: source of randomness, on the model's device.
        length: tokens a sequence, the model's own if None.
        fixed: tokens [L] that are imposed, FREE (-1) where the model decides. With absorb this
            conditions the model; with uniform the score takes them for noised tokens.
        temperature: the token that is revealed, with uniform x0, has its probabilities to the
            power 1 / temperature.
        top_p: then only the likeliest tokens that together hold this share can be drawn.
        stepping: times, order and corrections of the steps.
        conditioning: labels that all have. With a guidance that is neither 0 nor 1 the network is
            evaluated twice as often, with the labels and without them.
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
    predictor = resolve(model, predictor, temperature, top_p, stepping, conditioning)
    sharpening = Sharpening(model.config.vocab_size, temperature, top_p)
    times = step_times(model, num_steps, stepping)
    asked = (model, num, times, predictor, generator, fixed, sharpening, on_state, stepping)
    task = Task(*asked)
    with model.network.labelled(_rows(model, conditioning, fixed), conditioning.guidance):
        if not model.timeless:
            drawn = sample_by_steps(task)
        elif stepping.order != "random":
            drawn = sample_in_order(task)
        elif stepping.corrector == "conf":
            drawn = sample_by_confidence(task)
        elif stepping.corrector != "none":
            drawn = sample_by_timetable(task)
        else:
            drawn = sample_by_reveals(task)
    if not conditioning.evaluates_twice:
        return drawn
    return Samples(drawn.tokens, 2 * drawn.nfe, 2 * drawn.calls)


def _rows(model: SEDD, conditioning: Conditioning, like: Tensor) -> Tensor | None:
    """The labels asked for as numbers [1, K], on the device of `like`; None for none."""
    if not conditioning.labels:
        return None
    said = conditioning.labels
    row = [1 + names.index(said[c]) if c in said else 0 for c, names in model.labels.items()]
    return torch.tensor([row], device=like.device)
