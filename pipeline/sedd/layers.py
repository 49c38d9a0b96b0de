"""What the score network is made of; names of parameters are those of the paper's code."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCY_DIM = 256
Attention = Literal["sdpa", "flash"]


def widened(x: Tensor) -> Tensor:
    """x in float32 where it is narrower, else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def attend(query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
    """Attention of all positions to all, [B, H, L, head_dim], by PyTorch or by flash-attn.

    flash-attn is a package of its own, and takes float16 and bfloat16 on CUDA only.
    """
    if attention == "sdpa":
        return F.scaled_dot_product_attention(query, key, value)
    from flash_attn import flash_attn_func

    by_position = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return flash_attn_func(*by_position).transpose(1, 2)


class Norm(nn.Module):
    """Layer norm with a weight and no bias, computed in float32 or wider, given as the weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            wide = widened(x)
            normed = F.layer_norm(wide, self.weight.shape, self.weight.to(wide.dtype))
            return normed.to(self.weight.dtype)


class Embedding(nn.Module):
    """Rows [N, D] looked up by id."""

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(num_rows, width))
        nn.init.kaiming_uniform_(self.embedding, a=math.sqrt(5))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embedding)


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

    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [L, D], of all heads; sines are negative for first halves."""
        angles = torch.outer(torch.arange(length, device=self.inv_freq.device), self.inv_freq)
        cos, sin = angles.cos(), angles.sin()
        whole = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        return whole[0].repeat(1, self.num_heads), whole[1].repeat(1, self.num_heads)


def heads_of(x: Tensor, num_heads: int) -> Tensor:
    """x [..., D] as [..., H, head_dim]."""
    return x.view(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, num_heads: int) -> Tensor:
    """Turn x [..., D] by its position's angles [..., D], all heads in one pass."""
    by_head = heads_of(x, num_heads)
    swapped = by_head.roll(by_head.shape[-1] // 2, -1).flatten(-2)
    return torch.addcmul(swapped.mul_(sin.to(x.dtype)), x, cos.to(x.dtype))


class TanhGELU(nn.Module):
    """GELU by its tanh formula, x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)) written otherwise.

    On a CPU the sigmoid takes less than half the time of the tanh.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu" or widened(x) is not x:
            return F.gelu(x, approximate="tanh")
        scale = 2 * math.sqrt(2 / math.pi)
        gate = (x * x).mul_(0.044715 * scale).add_(scale).mul_(x)
        return gate.sigmoid_().mul_(x)


def zeroed(linear: nn.Linear) -> nn.Linear:
    """The same layer with all parameters 0."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
