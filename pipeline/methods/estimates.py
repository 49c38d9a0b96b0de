"""What bounds share: terms, the times they are drawn at, nats a symbol with their errors."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.scale.seeds import seeded
from pipeline.scale.units import UNKEPT, Result, Units

Texts = Tensor | npt.NDArray[Any]
"""Rows [N, L] of whole numbers, which may be a memory map."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Bound:
    """Terms of the bound for N texts in R replicates, float64, nats a text.

    Attributes:
        integral: [R, N], a Monte Carlo draw of each text in each replicate.
        prior: [N].
        reconstruction: [R, N].
        of: what it bounds, where samples are not drawn in just that way.
        t_min: the time down to which the integral reaches, where that is not 0.
    """

    integral: Tensor
    prior: Tensor
    reconstruction: Tensor
    of: str | None = None
    t_min: float | None = None

    @property
    def total(self) -> Tensor:
        """The bound itself [R, N]."""
        return self.integral + self.prior + self.reconstruction


def stratified_times(num: int, t_min: float, generator: torch.Generator) -> Tensor:
    """`num` times [num] in (t_min, 1], one in each of `num` equal intervals, in float64.

    One uniform shift serves all: t_i = t_min + (1 - t_min) ((u + i / num) mod 1).
    """
    u = torch.rand((), dtype=torch.float64, generator=generator, device=generator.device)
    grid = torch.arange(num, dtype=torch.float64, device=generator.device) / num
    return t_min + (1 - t_min) * (1 - (u + grid) % 1)


def replicate_times(num_texts: int, num_pairs: int, generator: torch.Generator) -> Tensor:
    """The later times [num_pairs, num_texts] of antithetic pairs, in (1/2, 1], float64.

    Stratified over all and within each text.
    """
    device = generator.device
    u = torch.rand((), dtype=torch.float64, generator=generator, device=device)
    strata = [
        pair * num_texts + torch.randperm(num_texts, generator=generator, device=device)
        for pair in range(num_pairs)
    ]
    return 1 - (torch.stack(strata) + u) / (2 * num_pairs * num_texts)


def draw_replicates(
    x0: Texts,
    pair: Callable[[Tensor, Tensor, Tensor | None, torch.Generator], Tensor],
    reconstruction: Callable[[Tensor, Tensor | None, torch.Generator], Tensor],
    *,
    device: torch.device,
    num_replicates: int,
    num_draws: int,
    batch_size: int,
    seed: int,
    known: Tensor | None = None,
    labels: Texts | None = None,
    units: Units = UNKEPT,
) -> tuple[Tensor, Tensor]:
    """The integral and the reconstruction, both [R, N], by replicates of a stratified draw.

    Within a replicate the N * num_draws times stand one in each of as many equal intervals, and
    each text has one in every 1 / num_draws, in antithetic pairs t and 1 - t. Draws are thus
    dependent: the Monte Carlo error comes from the spread between replicates.

    A unit is a batch of texts in a replicate: its noise has a seed of its own, its times one of the
    replicate's, so that its result depends on the seed, N and batch_size alone.

    Args:
        x0: clean tokens [N, L].
        pair: of texts [B, L], times [B], what is known of the texts [B, L] and the source of noise,
            the sum of the integrand at t and at 1 - t, [B].
        reconstruction: that term of texts [B, L], what is known of them and the source of noise.
        device: where these work; texts are moved there a batch at a time.
        num_replicates: R.
        num_draws: draws a text in each replicate, an even number.
        batch_size: texts a unit.
        seed: of all times and noise.
        known: positions [N, L] that are not noised and cost nothing; None is none of them.
        labels: numbers [N, K] that stand before each text.
        units: how the units are gone through.
    Raises:
        ValueError: num_draws is not even.
    """
    if num_draws < 2 or num_draws % 2:
        raise ValueError(f"num_draws must be even and at least 2 (got {num_draws})")
    batches = [slice(first, first + batch_size) for first in range(0, len(x0), batch_size)]

    @lru_cache(maxsize=1)
    def times(replicate: int) -> Tensor:
        generator = seeded(CPU, seed, "times", replicate)
        return replicate_times(len(x0), num_draws // 2, generator)

    def draw(unit: int) -> Result:
        replicate, batch = divmod(unit, len(batches))
        rows = batches[batch]
        texts = _rows(x0, rows, device)
        if labels is not None:
            texts = torch.cat([_rows(labels, rows, device), texts], 1)
        shown = None if known is None else known[rows].to(device)
        generator = seeded(device, seed, "noise", unit)
        drawn = torch.zeros(len(texts), dtype=torch.float64, device=device)
        for t in times(replicate)[:, rows].to(device):
            drawn += pair(texts, t, shown, generator)
        return {
            "integral": drawn / num_draws,
            "reconstruction": reconstruction(texts, shown, generator),
        }

    found = units.in_order(num_replicates * len(batches), draw)
    shape = num_replicates, len(x0)
    integral, last = (
        torch.cat([each[term] for each in found]).view(shape)
        for term in ("integral", "reconstruction")
    )
    return integral, last


def _rows(texts: Texts, rows: slice, device: torch.device) -> Tensor:
    part = texts[rows]
    if not isinstance(part, Tensor):
        part = torch.from_numpy(part.astype(np.int64))
    return part.to(device)


@dataclass(frozen=True)
class Rate:
    """Nats a symbol over a set of texts, with its errors.

    Attributes:
        value: total nats over total symbols.
        mc_stderr: from the spread between replicates.
        data_stderr: from the spread between texts; a lone one shows none.
    """

    value: float
    mc_stderr: float
    data_stderr: float

    @property
    def stderr(self) -> float:
        """Both errors together."""
        return math.hypot(self.mc_stderr, self.data_stderr)


def rate(nats: Tensor, num_symbols: Tensor) -> Rate:
    """Nats a symbol from nats [R, N] (R may be 1: exact values) and symbols a text [N]."""
    total = num_symbols.sum().double()
    replicates = nats.sum(-1) / total
    per_text = nats.mean(0)
    value = per_text.sum() / total
    residual = per_text - value * num_symbols
    mc = _spread(replicates) / math.sqrt(len(replicates))
    data = _spread(residual) * math.sqrt(len(residual)) / total.item()
    return Rate(value.item(), mc, data)


def _spread(values: Tensor) -> float:
    """Standard deviation of values [R]; a single one has none."""
    return values.std().item() if len(values) > 1 else 0.0
