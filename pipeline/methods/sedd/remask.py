"""Samplers of timeless networks that take tokens back (ReMDM, arXiv 2503.00307).

By a schedule of kappa the times at which a position is revealed, masked again and revealed anew
depend on time alone: all are drawn first, and the network then says which tokens are revealed, at
these positions only. `conf` must know the tokens to say which are taken back.
"""

import torch
from torch import Tensor

from pipeline.methods.draws import FREE, OnState, Samples, uniform
from pipeline.methods.sedd.draw import Task, draw_at, moved
from pipeline.methods.sedd.schedule import kappas, mask_chances
from pipeline.methods.sedd.weights import token_weights


def timetable(
    shape: tuple[int, int], stay: Tensor, back: Tensor, generator: torch.Generator
) -> Tensor:
    """Whether each of M positions in B rows is a mask before each step, and at last.

    Args:
        shape: rows B and positions M; all begin as masks.
        stay: chance [n + 1] of a mask to stay one in each step, the final denoise included.
        back: chance [n + 1] of a token to become a mask.
        generator: source of randomness.
    Returns:
        [n + 2, B, M], bool.
    """
    masked = torch.ones(len(stay) + 1, *shape, dtype=torch.bool, device=generator.device)
    stay, back = stay.to(generator.device), back.to(generator.device)
    for step in range(len(stay)):
        chance = torch.where(masked[step], stay[step], back[step])
        masked[step + 1] = uniform(shape, generator) < chance
    return masked


def sample_by_timetable(task: Task) -> Samples:
    """Draw as `sample` says; a row is evaluated where something is revealed in it.

    With `cached` the k-th such step of a row shares a call with every other row's k-th; with
    `analytic` rows that reveal something at the same step do.
    """
    model, times, fixed, num = task.model, task.times, task.fixed, task.num
    mask_id, free = model.graph.num_states - 1, (fixed == FREE).cpu()
    stay, back = mask_chances(model, times, kappas(model, times, task.stepping))
    placed = timetable((num, int(free.sum())), stay, back, task.generator).cpu()
    masked = torch.zeros(len(placed), num, len(free), dtype=torch.bool)
    masked[:, :, free] = placed
    reveals = (masked[:-1] & ~masked[1:]).any(-1)
    steps, rows = reveals.nonzero(as_tuple=True)
    turn = steps if task.predictor == "analytic" else (reveals.cumsum(0) - 1)[steps, rows]
    sizes = torch.unique(turn, return_counts=True)[1].tolist()
    turns = torch.split(turn.argsort(stable=True), sizes)
    tokens = torch.where(fixed == FREE, mask_id, fixed).repeat(num, 1)
    positions = torch.arange(tokens.numel()).view(tokens.shape)
    nfe, calls = torch.zeros(num, dtype=torch.int64), 0
    states = _States(times, masked, tokens, mask_id, task.on_state)
    settled = [int(steps[later].min()) for later in turns] + [len(times)]
    states.show(settled[0])
    with model.network.recording():
        for k, here in enumerate(turns):
            row, step = rows[here], steps[here]
            was = masked[step, row]
            now = was & ~masked[step + 1, row]
            there = moved(row, tokens.device)
            xt = tokens.index_select(0, there).masked_fill(moved(was, tokens.device), mask_id)
            u = uniform((int(now.sum()),), task.generator)
            drawn = draw_at(model, xt, None, now, token_weights, u, task.sharpening)
            places = moved(positions[row][now], tokens.device)
            tokens.view(-1).index_copy_(0, places, drawn.states)
            nfe[row] += 1
            calls += drawn.calls
            states.add(step[:, None].expand_as(now)[now], places, drawn.states)
            states.show(min(settled[k + 1 :]))
    return Samples(tokens, nfe.to(tokens.device), calls)


class _States:
    """Shows the states before each step, as soon as all that was drawn before is known."""

    def __init__(
        self, times: Tensor, masked: Tensor, tokens: Tensor, mask_id: int, on_state: OnState | None
    ) -> None:
        self._times = [*times.tolist(), 0.0]
        self._masked = masked
        self._tokens = tokens.clone()
        self._mask_id = mask_id
        self._on_state = on_state
        self._next = 0
        self._drawn: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, step: Tensor, places: Tensor, states: Tensor) -> None:
        """Take what was drawn: at which steps, where among B * L, and what, all [N]."""
        if self._on_state is not None:
            self._drawn.append((moved(step, states.device), places, states))

    def show(self, settled: int) -> None:
        """Show the states up to that before step `settled`."""
        if self._on_state is None or settled < self._next:
            return
        drawn = [torch.cat(each) for each in zip(*self._drawn, strict=True)]
        for now in range(self._next, settled + 1):
            if now and drawn:
                step, places, states = drawn
                before = step == now - 1
                self._tokens.view(-1)[places[before]] = states[before]
            masked = moved(self._masked[now], self._tokens.device)
            state = self._tokens.masked_fill(masked, self._mask_id)
            self._on_state(now, self._times[now], state)
        self._next = settled + 1
        if drawn:
            later = drawn[0] >= settled
            self._drawn = [(drawn[0][later], drawn[1][later], drawn[2][later])]


def chance_of_drawn(weights: Tensor, _: Tensor, drawn: Tensor) -> Tensor:
    """How likely the states drawn [n] were by weights [n, V], before these are sharpened."""
    return weights.gather(-1, drawn[:, None]).squeeze(-1).double() / weights.double().sum(-1)


def sample_by_confidence(task: Task) -> Samples:
    """Draw as `sample` says, with corrector `conf`.

    Masks are revealed as without a corrector. Of the tokens of a row each is masked again with its
    share, softmax of minus the chance that it was drawn with, of the chance that `rescale` has.
    """
    model, times, fixed, num = task.model, task.times, task.fixed, task.num
    device, mask_id = fixed.device, model.graph.num_states - 1
    free = fixed == FREE
    ancestral = torch.ones(len(times) - 1, dtype=torch.float64)
    stay = mask_chances(model, times, ancestral)[0].to(device)
    back = mask_chances(model, times, kappas(model, times, task.stepping))[1].to(device)
    tokens = torch.where(free, mask_id, fixed).repeat(num, 1)
    masked = free.repeat(num, 1)
    sureness = torch.zeros(tokens.shape, dtype=torch.float64, device=device)
    nfe, calls = torch.zeros(num, dtype=torch.int64, device=device), 0
    with model.network.recording():
        for step in range(len(times)):
            if task.on_state is not None:
                task.on_state(step, float(times[step]), tokens.masked_fill(masked, mask_id))
            share = (-sureness).masked_fill(masked | ~free, -torch.inf).softmax(-1).nan_to_num()
            chance = torch.where(masked, stay[step], back[step] * share)
            after = free & (uniform(tuple(tokens.shape), task.generator) < chance)
            rows = (masked & ~after).any(-1).nonzero().squeeze(-1)
            if len(rows):
                now = (masked & ~after)[rows]
                xt = tokens.masked_fill(masked, mask_id)[rows]
                u = uniform((int(now.sum()),), task.generator)
                how = (token_weights, u, task.sharpening, chance_of_drawn)
                drawn = draw_at(model, xt, None, now, *how)
                places = (rows[:, None] * len(fixed) + torch.arange(len(fixed), device=device))[now]
                tokens.view(-1)[places] = drawn.states
                sureness.view(-1)[places] = drawn.measured
                nfe[rows] += 1
                calls += drawn.calls
            masked = after
    if task.on_state is not None:
        task.on_state(len(times), 0.0, tokens)
    return Samples(tokens, nfe, calls)
