"""What all samplers share: the categorical draw, temperature and nucleus, and what they return."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.sedd.layers import widened
from pipeline.sedd.model import SEDD

Predictor = Literal["analytic", "euler", "cached", "first_hitting"]
OnState = Callable[[int, float, Tensor], None]
Weigh = Callable[[Tensor, Tensor], Tensor]
"""(outputs [n, V] of the network, which it may overwrite, states [n] there) -> weights [n, V']."""
FREE = -1
CHUNK = 2**22
"""Weights that are held at a time: 32 MB in float64, whatever the vocabulary."""
ACTIVATIONS = {"cpu": 2**21, "cuda": 2**26}
"""Numbers of the network's widest layer that are held at a time, by kind of device.

In float32 8 MB on a CPU, which is enough for its cores, and 256 MB on a GPU.
"""
SCATTER = 6_364_136_223_846_793_005
"""An odd number without a pattern in its bits: Knuth's multiplier of 64 bits."""


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


@dataclass(frozen=True)
class Sharpening:
    """Temperature, then nucleus (top-p, arXiv 1904.09751), on the weights of the tokens.

    The tokens are the first `num_tokens` states. Their total weight stays what it was, and so the
    chance that a mask is revealed at all. Both at 1 leave the weights untouched.
    """

    num_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0

    def __call__(self, weights: Tensor) -> Tensor:
        """Weights [..., V] in, none of them negative; weights [..., V] out, changed in float64."""
        if self.temperature == 1 and self.top_p == 1:
            return weights
        weights = weights.double()
        tokens, others = weights.tensor_split([self.num_tokens], -1)
        tiny = torch.finfo(weights.dtype).tiny
        # The largest becomes 1, so that no power overflows or loses them all.
        sharp = (tokens / tokens.amax(-1, keepdim=True).clamp(min=tiny)) ** (1 / self.temperature)
        if self.top_p < 1:
            sharp = nucleus(sharp, self.top_p)
        scale = tokens.sum(-1, keepdim=True) / sharp.sum(-1, keepdim=True).clamp(min=tiny)
        return torch.cat([sharp * scale, others], -1)


def nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Weights [..., V] with 0 outside the smallest set that holds a share `top_p` of them."""
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(-1)
    enough = cumulative >= top_p * cumulative[..., -1:]
    # The one that reaches the share still belongs.
    outside = torch.cat([torch.zeros_like(enough[..., :1]), enough[..., :-1]], -1)
    return weights.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0.0)


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Multiples of 2^-53 in [0, 1), on the generator's device."""
    return torch.rand(shape, dtype=torch.float64, device=generator.device, generator=generator)


def categorical(weights: Tensor, u: Tensor, sharpening: Sharpening | None = None) -> Tensor:
    """The index [n] that u [n] picks from weights [n, V], not necessarily normalised.

    The cumulative distribution in float64 is inverted at a uniform multiple of 2^-53, the smallest
    probability that is resolved: each outcome's chance is its share of the weights, as their dtype
    holds them, to within 2^-51. Negative weights count as 0.
    """
    weights = weights.clamp(min=0)
    if sharpening is not None:
        weights = sharpening(weights)
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # A product that rounds up to the total would fall past the last state with any mass.
    below_total = torch.minimum(u[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, below_total, right=True).squeeze(-1)


def draw_at(
    model: SEDD,
    xt: Tensor,
    sigma: Tensor | None,
    at: Tensor,
    weigh: Weigh,
    u: Tensor,
    sharpening: Sharpening,
) -> tuple[Tensor, int]:
    """Draw a state at each of the N positions that `at` [B, L] marks, row by row.

    The network takes as many rows at a time as ACTIVATIONS has room for, and the head as many of
    the positions as CHUNK has; u is drawn before, so that neither changes what is drawn.

    Args:
        model: the score model.
        xt: tokens [B, L].
        sigma: total noise [1] of all rows; None for the conditional parameterisation.
        at: which positions.
        weigh: turns outputs there into weights.
        u: a uniform for each position [N], float64.
        sharpening: of the weights.
    Returns:
        the states drawn [N], and how often the network was called.
    """
    num_rows = max(1, ACTIVATIONS[xt.device.type] // (4 * model.config.width * xt.shape[1]))
    parts, places = torch.split(xt, num_rows), torch.split(at, num_rows)
    here, drawn = xt[at], torch.empty_like(u, dtype=torch.int64)
    head = model.network.head
    size, first = max(1, CHUNK // head.out_features), 0
    for part, place in zip(parts, places, strict=True):
        for hidden in torch.split(hidden_at(model, part, sigma, place), size):
            now = slice(first, first + len(hidden))
            weights = weigh(widened(head(hidden)), here[now])
            drawn[now] = categorical(weights, u[now], sharpening)
            first += len(hidden)
    return drawn, len(parts)


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
