"""Samplers of timeless networks: when a position is revealed needs no network.

The chance of a mask to be revealed depends on the time alone, so that all reveals are placed
first; the network then says which tokens they are, at these positions only.
"""

import torch
from torch import Tensor

from pipeline.methods.draws import FREE, OnState, Samples, uniform
from pipeline.methods.sedd.draw import Predictor, Task, draw_at, moved
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.weights import token_weights


def masked_chances(model: SEDD, times: Tensor, predictor: Predictor) -> Tensor:
    """Chance [n + 2] of a position to be masked before each of n steps, the denoise, and at last.

    Args:
        model: its noise decides.
        times: [n + 1], falling from 1.
        predictor: `euler`, or any other, whose chances are those of the exact process.
    """
    sigma = model.noise.sigma(times)
    if predictor == "euler":
        rate = model.noise.dsigma(times) / torch.expm1(sigma)
        stay = (1 - (times[:-1] - times[1:]) * rate[:-1]).clamp(min=0)
    else:
        move_chance = -torch.expm1(-sigma)
        stay = move_chance[1:] / move_chance[:-1]
    return torch.cat([torch.ones_like(stay[:1]), stay.cumprod(0), torch.zeros_like(stay[:1])])


def first_hits(shape: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Reveals in continuous time, first-hitting sampling (arXiv 2409.02908).

    With m masks left the move chance falls by a factor u^(1/m) to the next reveal, which any of
    them may be.

    Args:
        shape: rows B and positions M to reveal in each.
        generator: source of randomness.
    Returns:
        the turn [B, M] at which each position is revealed, from 0, and the move chance [B, M] then.
    """
    num_left = torch.arange(shape[1], 0, -1, dtype=torch.float64, device=generator.device)
    falling = (uniform(shape, generator) ** (1 / num_left)).cumprod(-1)
    turn = uniform(shape, generator).argsort(-1)
    return turn, falling.gather(-1, turn)


def place_reveals(
    shape: tuple[int, int], masked: Tensor, predictor: Predictor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Turn and step at which each of M positions in B rows is revealed, both [B, M] from 0.

    A turn of `analytic` and `euler` is a step. With `cached` rows advance by themselves: the k-th
    step that reveals anything in one row shares a turn with every other row's k-th. With
    `first_hitting` every turn reveals one position of each row.
    """
    if predictor == "first_hitting":
        turn, move_chance = first_hits(shape, generator)
    else:
        move_chance = uniform(shape, generator)
    # The last step before which the position is still masked.
    step = len(masked) - 1 - torch.bucketize(move_chance, masked.flip(0), right=True)
    if predictor == "cached":
        turn = _rank(step)
    elif predictor != "first_hitting":
        turn = step
    return turn, step


def sample_by_reveals(task: Task) -> Samples:
    """Draw as `sample` says; a row is evaluated at the turns that reveal something in it."""
    model, fixed, generator = task.model, task.fixed, task.generator
    mask_id = model.graph.num_states - 1
    free = fixed == FREE
    xt = torch.where(free, mask_id, fixed).repeat(task.num, 1)
    masked = masked_chances(model, task.times, task.predictor).to(xt.device)
    placed = place_reveals((task.num, int(free.sum())), masked, task.predictor, generator)
    # What is revealed when, and so what is asked for, is known before the first call: a card is
    # not waited for to learn it.
    turn, reveal_step = (torch.full(xt.shape, -1) for _ in range(2))
    turn[:, free.cpu()], reveal_step[:, free.cpu()] = (each.cpu() for each in placed)
    nfe = torch.zeros(task.num, dtype=torch.int64)
    calls = 0
    states = _States(task.times, reveal_step, mask_id, task.on_state)
    turns: list[int] = torch.unique(turn[:, free.cpu()]).tolist()
    positions = torch.arange(xt.numel()).view(xt.shape)
    with model.network.recording():
        for k in turns:
            states.show(xt, turn >= k)
            rows = (turn == k).any(-1).nonzero().squeeze(-1)
            now = turn[rows] == k
            revealed = xt.index_select(0, moved(rows, xt.device))
            u = uniform((int(now.sum()),), generator)
            drawn = draw_at(model, revealed, None, now, token_weights, u, task.sharpening)
            xt.view(-1).index_copy_(0, moved(positions[rows][now], xt.device), drawn.states)
            nfe[rows] += 1
            calls += drawn.calls
    states.show(xt, turn > max(turns, default=-1))
    return Samples(xt, nfe.to(xt.device), calls)


def _rank(step: Tensor) -> Tensor:
    """For each position [B, M], at how many earlier steps its row has reveals."""
    ordered, order = step.sort(-1)
    is_new = torch.zeros_like(ordered)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.empty_like(order).scatter(-1, order, is_new.cumsum(-1))


class _States:
    """Shows the states before each step, as soon as no row can change them any more."""

    def __init__(
        self, times: Tensor, reveal_step: Tensor, mask_id: int, on_state: OnState | None
    ) -> None:
        self._times = [*times.tolist(), 0.0]
        self._reveal_step = reveal_step
        self._mask_id = mask_id
        self._on_state = on_state
        self._num_shown = 0

    def show(self, xt: Tensor, pending: Tensor) -> None:
        """Show what xt [B, L] settles, given which positions are still to be drawn [B, L]."""
        if self._on_state is None:
            return
        last = len(self._times) - 1
        settled = int(torch.where(pending, self._reveal_step, last).min())
        for step in range(self._num_shown, settled + 1):
            is_shown = moved(self._reveal_step < step, xt.device)
            state = torch.where(is_shown, xt, self._mask_id)
            self._on_state(step, self._times[step], state)
        self._num_shown = settled + 1
