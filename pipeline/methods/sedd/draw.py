"""Drawing states at some positions: the network and its head, in pieces that fit in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.kernels.precision import widened
from pipeline.methods.draws import ACTIVATIONS, CHUNK, OnState, Sharpening, categorical
from pipeline.methods.samplers import Stepping
from pipeline.methods.sedd.model import SEDD
from pipeline.network.layers import places

Predictor = Literal["analytic", "euler", "cached", "first_hitting"]
Weigh = Callable[[Tensor, Tensor], Tensor]
"""(outputs [n, V] of the network, which it may overwrite, states [n] there) -> weights [n, V']."""
Measure = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(weights [n, V'], states [n] there, states drawn [n]) -> a number of each [n], in float64."""
SCATTER = 6_364_136_223_846_793_005
"""An odd number without a pattern in its bits: Knuth's multiplier of 64 bits."""


@dataclass(frozen=True)
class Task:
    """What a sampler of this room is asked for, as `sampler.sample` has it.

    Attributes:
        num: sequences.
        times: of the steps [n + 1], falling from 1.
        fixed: tokens [L] that are imposed, FREE elsewhere; on the generator's device.
    """

    model: SEDD
    num: int
    times: Tensor
    predictor: Predictor
    generator: torch.Generator
    fixed: Tensor
    sharpening: Sharpening
    on_state: OnState | None
    stepping: Stepping


class Drawn(NamedTuple):
    """What was drawn at N positions.

    Attributes:
        states: [N].
        calls: how often the network was called.
        measured: numbers of each [N], if they were asked for.
    """

    states: Tensor
    calls: int
    measured: Tensor


def draw_at(
    model: SEDD,
    xt: Tensor,
    sigma: Tensor | None,
    at: Tensor,
    weigh: Weigh,
    u: Tensor,
    sharpening: Sharpening,
    measure: Measure | None = None,
) -> Drawn:
    """Draw a state at each of the N positions that `at` [B, L] marks, row by row.

    The network takes as many rows at a time as ACTIVATIONS has room for, and the head as many of
    the positions as CHUNK has; u is drawn before, so that neither changes what is drawn.

    Args:
        model: the score model.
        xt: tokens [B, L].
        sigma: total noise [1] of all rows; None for a timeless network.
        at: which positions; on the CPU where a card need not be asked for them.
        weigh: turns outputs there into weights.
        u: a uniform for each position [N], float64.
        sharpening: of the weights.
        measure: what else is wanted of the weights, as they are before.
    """
    num_rows = max(1, ACTIVATIONS[xt.device.type] // (4 * model.config.width * xt.shape[1]))
    parts, drawn = torch.split(xt, num_rows), torch.empty_like(u, dtype=torch.int64)
    measured = torch.empty_like(u)
    most = CHUNK[xt.device.type] // model.network.head.out_features
    size, first = max(1, most), 0
    for part, asked in zip(parts, torch.split(at, num_rows), strict=True):
        here = moved(places(asked), xt.device)
        # A card would be waited for longer than rows that are alike take it.
        on_card = xt.device.type == "cuda"
        if on_card:
            found = model.network.hidden(part, sigma, here)
        else:
            found = hidden_at(model, part, sigma, asked)
        states = part.flatten().index_select(0, here)
        for hidden, state in zip(torch.split(found, size), torch.split(states, size), strict=True):
            now = slice(first, first + len(hidden))
            weights = weigh(widened(model.network.outputs(hidden)), state)
            drawn[now] = categorical(weights, u[now], sharpening)
            if measure is not None:
                measured[now] = measure(weights, state, drawn[now])
            first += len(hidden)
    return Drawn(drawn, len(parts), measured)


def moved(x: Tensor, device: torch.device) -> Tensor:
    """x on a device, without waiting for that."""
    return x if x.device.type == device.type else x.pin_memory().to(device, non_blocking=True)


def hidden_at(model: SEDD, xt: Tensor, sigma: Tensor | None, at: Tensor) -> Tensor:
    """What the head takes [N, D] at the N positions `at` [B, L].

    Rows that are alike are evaluated once: all of them at first, when they hold nothing but masks.
    """
    asked_rows = 2 * xt + at
    if _all_differ(asked_rows):
        return model.network.hidden(xt, sigma, at)
    rows, row = torch.unique(asked_rows, dim=0, return_inverse=True)
    asked = rows % 2 == 1
    places = asked.flatten().cumsum(0).view(rows.shape) - 1
    return model.network.hidden(rows // 2, sigma, asked).index_select(0, places[row][at])


def _all_differ(rows: Tensor) -> bool:
    """Whether no two rows [B, L] are alike, by their sums: far quicker than to compare rows.

    False whenever two are alike. It may be false where none are, which is as good as impossible,
    and would only cost the comparison.
    """
    places = torch.arange(rows.shape[1], device=rows.device)
    # Modulo 2^64, as whole numbers of 64 bits are.
    sums = (rows * SCATTER**places).sum(-1)
    return len(torch.unique(sums)) == len(sums)
