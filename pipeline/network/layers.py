"""What the score network is made of; names of parameters are those of the paper's code."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.kernels.gradient_memory import looked_up_from
from pipeline.kernels.precision import widened

FREQUENCY_DIM = 256


class Norm(nn.Module):
    """Layer norm with a weight, computed in float32 or wider, given as the weight.

    A bias is for norms that are never shifted.
    """

    def __init__(self, width: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(
        self, x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """x [B, L, D] normed; then times 1 + scale, plus shift, both [B, 1, D] or [1, 1, D]."""
        if shift is None or scale is None:
            return self._normed(x, self.weight, self.bias)
        if len(scale) == 1:
            # It is another weight, and a bias, which need no pass of their own.
            weight = widened(self.weight)
            weight = torch.addcmul(weight, weight, widened(scale).flatten())
            return self._normed(x, weight, widened(shift).flatten())
        return torch.addcmul(shift, self._normed(x, self.weight, None), 1 + scale)

    def _normed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Autocast leaves a norm of float32 in float32.
        wide = widened(x)
        bias = None if bias is None else bias.to(wide.dtype)
        normed = F.layer_norm(wide, weight.shape, weight.to(wide.dtype), bias)
        return normed.to(self.weight.dtype)


class Embedding(nn.Module):
    """Rows [N, D] looked up by id."""

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(num_rows, width))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))

    def forward(self, ids: Tensor) -> Tensor:
        return looked_up_from(self.embedding, ids)


class SigmaEmbedding(nn.Module):
    """Sinusoidal features of sigma [B] through two linear layers, to [B, C]."""

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCY_DIM, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim)
        )

    def forward(self, sigma: Tensor) -> Tensor:
        half = FREQUENCY_DIM // 2
        exponents = torch.arange(half, device=sigma.device, dtype=torch.float32) / half
        angles = sigma[:, None] * torch.exp(-math.log(10_000) * exponents)
        features = torch.cat([angles.cos(), angles.sin()], -1)
        return self.mlp(features.to(next(self.parameters()).dtype))


class Rotary(nn.Module):
    """Rotary positions: the first half of each head turns against the second."""

    inv_freq: Tensor

    def __init__(self, head_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self.register_buffer("inv_freq", 1 / 10_000**exponents)

    def turns(self, length: int) -> Tensor:
        """Cosines and sines [2, L, D / 2] of each position's angles, all heads', as `widened`."""
        angles = torch.outer(torch.arange(length, device=self.inv_freq.device), self.inv_freq)
        turns = torch.stack([angles.cos(), angles.sin()])
        return widened(turns).repeat(1, 1, self.num_heads)


def heads_of(x: Tensor, num_heads: int) -> Tensor:
    """x [..., D] as [..., H, head_dim]."""
    return x.view(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def paired(weight: Tensor, head_dim: int) -> Tensor:
    """The weight of `attn_qkv` [3 D, D] as `rotate_pairs` wants queries and keys.

    Attention does not change when their numbers, in each head, change order alike.
    """
    width = weight.shape[1]
    turning, values = weight.tensor_split([2 * width])
    halves = turning.view(-1, 2, head_dim // 2, width)
    return torch.cat([halves.transpose(1, 2).reshape(turning.shape), values])


def rotate_pairs(x: Tensor, turns: Tensor) -> Tensor:
    """Queries or keys x [..., D] turned by complex `turns` [..., D / 2].

    The two numbers that turn together stand side by side, as a complex one: see `paired`.
    """
    pairs = torch.view_as_complex(widened(x).view(*x.shape[:-1], x.shape[-1] // 2, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def rotate_halves(x: Tensor, turns: Tensor, head_dim: int) -> Tensor:
    """As `rotate_pairs`, where the first half of each head turns against the second.

    Cosines and sines are apart, `turns` [2, ..., D / 2]. For torch.compile, which fuses no complex
    numbers, and is quick where neighbours are alike.
    """
    halves = x.shape[-1] // head_dim, 2, head_dim // 2
    first, second = widened(x).view(*x.shape[:-1], *halves).unbind(-2)
    cos, sin = (each.view(*each.shape[:-1], *halves[::2]) for each in turns)
    turned = [first * cos - second * sin, first * sin + second * cos]
    return torch.stack(turned, -2).flatten(-3).to(x.dtype)


def looked_up(x: Tensor, ids: Tensor | None) -> Tensor:
    """x as it is, or [B, L, D] of the rows of x [1, V, D] that ids [B, L] name."""
    return x if ids is None else F.embedding(ids, x[0])


def places(at: Tensor) -> Tensor:
    """Places [N] among B * L positions: those that `at` [B, L] marks, or `at` [N] as it is.

    A card must be waited for to learn how many are marked.
    """
    return at if at.dtype == torch.int64 else at.flatten().nonzero().squeeze(-1)


def taken(x: Tensor, at: Tensor | None) -> Tensor:
    """x [B, L, D] as it is, or [N, 1, D] at N `places`."""
    if at is None:
        return x
    # Its gradient is a plain sum of rows; that of a boolean index sorts first.
    return x.flatten(0, 1).index_select(0, places(at))[:, None]


def by_row(modulation: Tensor, row: Tensor | None) -> Tensor:
    """Modulation [B, C] of rows, or [1, C] of all, as [B, 1, C], or [N, 1, C] of each row [N]."""
    if row is not None and len(modulation) > 1:
        if torch.is_autocast_enabled(modulation.device.type):
            # Its gradient is a sum over positions, which in bfloat16 stops growing.
            modulation = widened(modulation)
        modulation = modulation.index_select(0, row)
    return modulation[:, None]


def zeroed(linear: nn.Linear) -> nn.Linear:
    """The same layer with all parameters 0."""
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear
