"""Samplers that evaluate every row that a step can change: of networks that take sigma."""

import torch
from torch import Tensor

from pipeline.methods.draws import FREE, Samples, Sharpening, uniform
from pipeline.methods.samplers import SWEEPING, Stepping
from pipeline.methods.sedd.draw import Drawn, Task, Weigh, draw_at, moved
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.schedule import kappas
from pipeline.methods.sedd.weights import moves, reveals, scores
from pipeline.network.layers import places


def sample_by_steps(task: Task) -> Samples:
    """Draw as `sample` says; every row that a step can change is evaluated."""
    model, times, fixed, generator = task.model, task.times, task.fixed, task.generator
    on_state, sharpening, stepping = task.on_state, task.sharpening, task.stepping
    device, free = fixed.device, (fixed == FREE).cpu()
    xt = model.graph.sample_limit((task.num, len(fixed)), generator)
    xt = torch.where(fixed == FREE, xt, fixed)
    nfe = torch.zeros(task.num, dtype=torch.int64, device=device)
    calls, times_there = 0, times.to(device)
    # A network by x0 sharpens its p(x0 | xt), before it is weighed.
    unchanged = Sharpening(sharpening.num_tokens)
    kappa = [*kappas(model, times, stepping).tolist(), 1.0]
    with model.network.recording():
        for step in range(len(times)):
            if on_state is not None:
                on_state(step, float(times[step]), xt)
            if model.graph.mask_id is None:
                rows, now, at = None, xt, free.expand_as(xt)
                weigh = moves(model, times_there[step:], task.predictor, sharpening, kappa[step])
                sharpen = unchanged
                nfe += 1
            else:
                unfinished = (xt == model.graph.mask_id).any(-1)
                rows = unfinished.nonzero().squeeze(-1)
                if not len(rows):
                    continue
                now = xt[rows]
                at = now == model.graph.mask_id
                weigh, sharpen = reveals(model, times[step:], task.predictor), sharpening
                nfe += unfinished
            after, num_calls = _redrawn(model, now, times[step], at, weigh, sharpen, generator)
            xt = after if rows is None else xt.index_copy(0, rows, after)
            calls += num_calls
            if stepping.corrector in SWEEPING and step + 1 < len(times):
                xt, num_sweeps, num_calls = sweep(
                    model, xt, times[step + 1], free, sharpening, stepping, generator
                )
                nfe += num_sweeps
                calls += num_calls
    if on_state is not None:
        on_state(len(times), 0.0, xt)
    return Samples(xt, nfe, calls)


def _sigma(model: SEDD, t: Tensor, device: torch.device) -> Tensor:
    """Total noise [1] at a time, as the network takes it."""
    return moved(model.noise.sigma(t[None]).to(model.dtype), device)


def _redrawn(
    model: SEDD,
    xt: Tensor,
    t: Tensor,
    at: Tensor,
    weigh: Weigh,
    sharpening: Sharpening,
    generator: torch.Generator,
) -> tuple[Tensor, int]:
    """xt [B, L] with what was drawn at `at` [B, L], and how often the network was called."""
    here = moved(places(at), xt.device)
    u = uniform(tuple(xt.shape), generator).flatten().index_select(0, here)
    drawn = draw_at(model, xt, _sigma(model, t, xt.device), at, weigh, u, sharpening)
    return xt.flatten().index_copy(0, here, drawn.states).view_as(xt), drawn.calls


def sweep(
    model: SEDD,
    xt: Tensor,
    t: Tensor,
    free: Tensor,
    sharpening: Sharpening,
    stepping: Stepping,
    generator: torch.Generator,
) -> tuple[Tensor, int, int]:
    """Redraw positions of xt [B, L] given all others, at noise of time t, on the uniform graph.

    `gibbs` takes one position of each row after another, each any of the free ones: with the exact
    score that leaves the law at t as it is. `low_confidence` takes those at once whose tokens are
    least likely given the others, which does not.

    Args:
        free: positions [L] that may move.
    Returns:
        xt afterwards, how often each row was evaluated, and how often the network was called.
    """
    num_free, calls = int(free.sum()), 0
    if not num_free:
        return xt, 0, 0
    sigma, unchanged = model.noise.sigma(t).to(xt.device), Sharpening(sharpening.num_tokens)
    weigh = scores(model, sigma, sharpening)
    if stepping.corrector == "low_confidence":
        at = free.expand_as(xt)
        u = uniform((len(xt) * num_free,), generator)
        drawn = draw_at(
            model, xt, _sigma(model, t, xt.device), at, weigh, u, unchanged, share_of_state
        )
        return _least_sure(xt, free, drawn, min(stepping.num_redrawn, num_free)), 1, drawn.calls
    free_places = free.nonzero().squeeze(-1)
    for _ in range(stepping.num_redrawn):
        chosen = (uniform((len(xt),), generator) * num_free).long().cpu()
        at = torch.zeros(xt.shape, dtype=torch.bool)
        at.scatter_(1, free_places[chosen][:, None], True)
        xt, num_calls = _redrawn(model, xt, t, at, weigh, unchanged, generator)
        calls += num_calls
    return xt, stepping.num_redrawn, calls


def share_of_state(weights: Tensor, state: Tensor, _: Tensor) -> Tensor:
    """How likely what stands there [n] is by weights [n, V]."""
    return weights.gather(-1, state[:, None]).squeeze(-1) / weights.sum(-1)


def _least_sure(xt: Tensor, free: Tensor, drawn: Drawn, num: int) -> Tensor:
    """xt [B, L] with states drawn at the `num` free positions of each row that are least likely."""
    places_there = moved(free.nonzero().squeeze(-1), xt.device)
    now = xt.index_select(1, places_there)
    worst = drawn.measured.view_as(now).argsort(dim=-1, stable=True)[:, :num]
    now = now.scatter(1, worst, drawn.states.view_as(now).gather(1, worst))
    return xt.index_copy(1, places_there, now)
