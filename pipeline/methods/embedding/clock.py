"""Clocks: at which noise level g a time t in [0, 1] is.

Each is piecewise linear over NUM_BINS equal bins of g, so that what matters of it is the share of
time that it spends in each bin.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.methods.embedding.vectors import Level
from pipeline.methods.protocol import own

Kind = Literal["nats", "decoding", "cosine"]
NUM_BINS = 100
DECAY = 0.995
"""Of a bin's mean square, at each visit: it forgets the untrained network, and not what is rare."""
FLOOR = 0.05
"""The share of time that is spread over all bins alike, whatever was learned."""
LEAST = 1e-12
COSINE_SHIFT, COSINE_STRETCH = 0.0002, 1.00025


class Clock(nn.Module):
    """A clock from g_min at t = 0 to g_max at t = 1, and what the bound's integrand is by bin.

    Its root mean square is learned while training, whatever the clock: a time that passes as fast
    gives draws of the bound's integral the least spread, on names 14 nats a text and draw, and 17
    to 21 where time passes as the mean does (RePlaid, arXiv 2605.18530).
    """

    rms: Tensor
    fixed: Tensor | None

    def __init__(self, kind: Kind, g_min: float, g_max: float, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.g_min, self.g_max = g_min, g_max
        self.width = (g_max - g_min) / NUM_BINS
        self.register_buffer("rms", torch.ones(NUM_BINS))
        shares = None
        if kind != "nats":
            g = torch.linspace(g_min, g_max, NUM_BINS + 1, dtype=torch.float64)
            times = decoding_times(g, vocab_size) if kind == "decoding" else cosine_times(g, dim)
            shares = times.diff().clamp(min=LEAST)
            shares /= shares.sum()
        self.register_buffer("fixed", shares, persistent=False)
        self._seen: list[tuple[Tensor, Tensor]] = []

    def g(self, t: Tensor) -> Tensor:
        """The noise level [B] at times t [B], float64."""
        return self._placed(t, self.shares())[0]

    def shares(self) -> Tensor:
        """The share of time [NUM_BINS] in each bin, float64."""
        return self.nats_shares() if self.fixed is None else self.fixed

    def nats_shares(self) -> Tensor:
        """The share of each bin [NUM_BINS] in time that passes as nats do, not below the floor."""
        nats = self.rms.double() + LEAST
        return (1 - FLOOR) * nats / nats.sum() + FLOOR / NUM_BINS

    def g_and_slope(self, t: Tensor, *, by_nats: bool = False) -> tuple[Tensor, Tensor]:
        """The noise level and dg/dt, both [B] and float64, at times t [B].

        Args:
            by_nats: of the time that passes as nats do, whatever the clock.
        """
        return self._placed(t, self.nats_shares() if by_nats else self.shares())

    def _placed(self, t: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        ends = shares.cumsum(0)
        # The last is 1, or rounding could leave t = 1 without a bin.
        ends = ends / ends[-1]
        bins = torch.searchsorted(ends, t.double().contiguous())
        share = shares[bins]
        g = self.g_min + self.width * (bins + 1 - (ends[bins] - t) / share)
        return g, self.width / share

    def observe(self, g: Tensor, nats: Tensor) -> None:
        """Note the bound's integrand at levels g [B], in nats a unit of g [B]."""
        self._seen.append((g.detach(), nats.detach()))

    @torch.no_grad()
    def learn(self, of_all: Callable[[Tensor], Tensor] = own) -> None:
        """Take in what was observed since the last time, `of_all` rows of a step."""
        if not self._seen:
            return
        g, nats = (of_all(torch.cat(each)) for each in zip(*self._seen, strict=True))
        self._seen.clear()
        bins = ((g - self.g_min) / self.width).long().clamp(0, NUM_BINS - 1)
        zeros = torch.zeros(NUM_BINS, dtype=torch.float64, device=g.device)
        visits = zeros.index_add(0, bins, torch.ones_like(g, dtype=torch.float64))
        mean = zeros.index_add(0, bins, nats.double().square()) / visits.clamp(min=1)
        keep = DECAY**visits
        self.rms.copy_((keep * self.rms.double().square() + (1 - keep) * mean).sqrt())


def decoding_times(g: Tensor, vocab_size: int) -> Tensor:
    """Times that pass as a vector's own evidence decodes to wrong tokens (FLM, arXiv 2602.16813).

    At g [n] the right token is the nearest with the chance q = E[Phi(n + e^(-g/2))^(V - 1)], of
    vectors that are orthogonal to one another. The integral is a sum over a fine grid.
    """
    n = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    density = torch.exp(-(n**2) / 2)
    below = torch.special.log_ndtr(n + torch.exp(-g / 2)[:, None])
    q = (torch.exp((vocab_size - 1) * below) * density).sum(-1) / density.sum()
    return 1 - vocab_size / (vocab_size - 1) * (q - 1 / vocab_size)


def cosine_times(g: Tensor, dim: int) -> Tensor:
    """Times of alpha^2 = cos^2((t + 0.0002) / 1.00025 pi / 2) (Analog Bits, arXiv 2208.04202)."""
    alpha = Level.at(g, dim).alpha
    return COSINE_STRETCH * 2 / math.pi * alpha.arccos() - COSINE_SHIFT
