"""What samplers share: the categorical draw, temperature and nucleus, and what they return."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

OnState = Callable[[int, float, Tensor], None]
FREE = -1
CHUNK = {"cpu": 2**22, "cuda": 2**27}
"""Weights that are held at a time, whatever the vocabulary, by kind of device.

In float64 32 MB on a CPU, and on a GPU 1 GB: fewer positions would not fill it.
"""
ACTIVATIONS = {"cpu": 2**21, "cuda": 2**26}
"""Numbers of the network's widest layer that are held at a time, by kind of device.

In float32 8 MB on a CPU, which is enough for its cores, and 256 MB on a GPU.
"""


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

    @property
    def changes(self) -> bool:
        """Whether it does not leave weights as they are."""
        return self.temperature != 1 or self.top_p != 1

    def __call__(self, weights: Tensor) -> Tensor:
        """Weights [..., V] in, none of them negative; weights [..., V] out, changed in float64."""
        if not self.changes:
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


def asked_for(longest: int, num_steps: int, length: int | None, fixed: Tensor | None) -> Tensor:
    """The tokens [L] that are imposed, FREE elsewhere, of a sampler that can do `longest`.

    Raises:
        ValueError: num_steps below 1, a length past the longest, or fixed of another length.
    """
    length = longest if length is None else length
    if num_steps < 1 or not 1 <= length <= longest:
        raise ValueError(f"num_steps {num_steps} below 1, or length {length} not in 1..{longest}")
    if fixed is None:
        fixed = torch.full((length,), FREE)
    if fixed.shape != (length,):
        raise ValueError(f"fixed has shape {tuple(fixed.shape)}, expected ({length},)")
    return fixed


def nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Weights [..., V] with 0 outside the smallest set that holds a share `top_p` of them."""
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(-1)
    enough = cumulative >= top_p * cumulative[..., -1:]
    # The one that reaches the share still belongs.
    outside = torch.cat([torch.zeros_like(enough[..., :1]), enough[..., :-1]], -1)
    return weights.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0.0)


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Multiples of 2^-53 in [0, 1), on the generator's device; on a card, halves between them."""
    return torch.rand(shape, dtype=torch.float64, device=generator.device, generator=generator)


def categorical(weights: Tensor, u: Tensor, sharpening: Sharpening | None = None) -> Tensor:
    """The index [n] that u [n] picks from weights [n, V], not necessarily normalised.

    The cumulative distribution in float64 is inverted at a uniform multiple of 2^-53, the smallest
    probability that is resolved: each outcome's chance is its share of the weights, as their dtype
    holds them, to within 2^-51. Negative weights count as 0. A card, which sums in parallel, may
    draw a state of weight 0 about once in 10^12 draws.
    """
    weights = weights.clamp(min=0)
    if sharpening is not None:
        weights = sharpening(weights)
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # A product that rounds up to the total would fall past the last state with any mass.
    below_total = torch.minimum(u[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, below_total, right=True).squeeze(-1)
