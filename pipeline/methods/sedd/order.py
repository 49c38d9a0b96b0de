"""Samplers of timeless networks that reveal first what the model is sure of.

An exact model would draw the data in any order, one position at a time. A trained one answers each
order a little differently: these laws are not the mean over all orders, which its bound is of, and
favour what it is sure of. So entropy is to be looked at beside every figure of such samples.
"""

import torch
from torch import Tensor

from pipeline.methods.draws import FREE, Samples, uniform
from pipeline.methods.sedd.draw import Task, draw_at
from pipeline.methods.sedd.reveal import masked_chances
from pipeline.methods.sedd.weights import token_weights


def sample_in_order(task: Task) -> Samples:
    """Draw as `sample` says, in an order that the model chooses; rows with masks are evaluated.

    With `confidence` and `margin` as many positions are left after a step as the process leaves in
    the mean, to the nearest whole number. With `entropy_bound` (arXiv 2505.24857) a row takes as
    many of its positions, the surest first, as have entropies that sum to at most gamma without
    the largest, one at least: so much may be lost by drawing them apart. It takes the turns that
    it needs, which are shown as if they were steps.
    """
    model, times, fixed, on_state = task.model, task.times, task.fixed, task.on_state
    device, mask_id = fixed.device, model.graph.num_states - 1
    free, order_by = fixed == FREE, task.stepping.order
    xt = torch.where(free, mask_id, fixed).repeat(task.num, 1)
    num_free = int(free.sum())
    by_entropy = order_by == "entropy_bound"
    left = (num_free * masked_chances(model, times, "analytic")[1:]).round().long().tolist()
    nfe, calls = torch.zeros(task.num, dtype=torch.int64, device=device), 0
    with model.network.recording():
        for step in range(num_free if by_entropy else len(times)):
            if on_state is not None and step < len(times):
                on_state(step, float(times[step]), xt)
            is_mask = xt == mask_id
            rows = is_mask.any(-1).nonzero().squeeze(-1)
            if not len(rows) or not (by_entropy or left[step] < int(is_mask[0].sum())):
                continue
            at = is_mask[rows]
            u = uniform((int(at.sum()),), task.generator)
            how = (token_weights, u, task.sharpening, UNSURENESS[order_by])
            drawn = draw_at(model, xt[rows], None, at, *how)
            unsure = torch.full(at.shape, torch.inf, dtype=torch.float64, device=device)
            unsure[at] = drawn.measured
            ordered, order = unsure.sort(dim=-1, stable=True)
            if by_entropy:
                taken = ordered.cumsum(-1) - ordered <= task.stepping.gamma
            else:
                count = int(at[0].sum()) - left[step]
                taken = torch.arange(at.shape[1], device=device).expand_as(at) < count
            now = at & torch.zeros_like(at).scatter(-1, order, taken)
            state = xt[rows]
            state[now] = drawn.states[now[at]]
            xt = xt.index_copy(0, rows, state)
            nfe[rows] += 1
            calls += drawn.calls
    if on_state is not None:
        on_state(len(times), 0.0, xt)
    return Samples(xt, nfe, calls)


def _likeliest(weights: Tensor, _: Tensor, __: Tensor) -> Tensor:
    weights = weights.double()
    return -weights.amax(-1) / weights.sum(-1)


def _lead(weights: Tensor, _: Tensor, __: Tensor) -> Tensor:
    weights = weights.double()
    first, second = weights.topk(2, -1).values.unbind(-1)
    return (second - first) / weights.sum(-1)


def _entropy(weights: Tensor, _: Tensor, __: Tensor) -> Tensor:
    p = weights.double() / weights.double().sum(-1, keepdim=True)
    return -torch.xlogy(p, p).sum(-1)


UNSURENESS = {"confidence": _likeliest, "margin": _lead, "entropy_bound": _entropy}
"""Of an order, what is least where the model is surest: [n] of weights [n, V]."""
