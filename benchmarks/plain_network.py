"""The network in its plain formulation: the paper's blocks with PyTorch's own attention.

Names and shapes of parameters are the product's, so that the weights of one load into the other.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainNorm(nn.Module):
    """Layer norm with a weight and no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight)


class PlainEmbedding(nn.Module):
    """Rows [N, D] looked up by id."""

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(num_rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embedding)


class PlainSigma(nn.Module):
    """Sinusoidal features of sigma [B] through two linear layers, to [B, C]."""

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))

    def forward(self, sigma: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10_000) * torch.arange(128) / 128).to(sigma.device)
        angles = sigma[:, None] * frequencies
        features = torch.cat([angles.cos(), angles.sin()], -1)
        return self.mlp(features.to(next(self.parameters()).dtype))


class PlainRotary(nn.Module):
    """Angles of rotary positions."""

    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10_000 ** -(torch.arange(0, head_dim, 2) / head_dim))

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [L, head_dim], each half the same."""
        angles = torch.arange(length, device=self.inv_freq.device)[:, None] * self.inv_freq
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [B, H, L, head_dim] by its position's angles."""
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], -1) * sin.to(x.dtype)


class PlainBlock(nn.Module):
    """Attention and a perceptron, each after a norm that sigma modulates where there is one."""

    def __init__(self, width: int, num_heads: int, cond_dim: int | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = PlainNorm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = PlainNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.adaLN_modulation = nn.Linear(cond_dim, 6 * width) if cond_dim else None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cond: Tensor | None) -> Tensor:
        if self.adaLN_modulation is None or cond is None:
            x = x + self.attend(self.norm1(x), cos, sin)
            return x + self.mlp(self.norm2(x))
        modulation = self.adaLN_modulation(cond)[:, None].chunk(6, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        x = x + gate1 * self.attend(self.norm1(x) * (1 + scale1) + shift1, cos, sin)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attention of all positions to all, x [B, L, D] to [B, L, D]."""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.attn_qkv(x).chunk(3, -1)
        )
        query, key = turned(query, cos, sin), turned(key, cos, sin)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.attn_out(attended.transpose(1, 2).flatten(2))


class PlainHead(nn.Module):
    """The last norm and the linear map to outputs, at every position."""

    def __init__(self, width: int, num_outputs: int, cond_dim: int | None) -> None:
        super().__init__()
        self.norm_final = PlainNorm(width)
        self.linear = nn.Linear(width, num_outputs)
        self.adaLN_modulation = nn.Linear(cond_dim, 2 * width) if cond_dim else None

    def forward(self, x: Tensor, cond: Tensor | None) -> Tensor:
        x = self.norm_final(x)
        if self.adaLN_modulation is not None and cond is not None:
            shift, scale = self.adaLN_modulation(cond)[:, None].chunk(2, -1)
            x = x * (1 + scale) + shift
        return self.linear(x)


class PlainTransformer(nn.Module):
    """Tokens [B, L], and sigma [B] where cond_dim is given, to outputs [B, L, num_outputs]."""

    def __init__(
        self,
        *,
        num_states: int,
        num_outputs: int,
        width: int,
        num_blocks: int,
        num_heads: int,
        cond_dim: int | None,
        num_positions: int | None,
    ) -> None:
        super().__init__()
        self.vocab_embed = PlainEmbedding(num_states, width)
        self.position_embed = PlainEmbedding(num_positions, width) if num_positions else None
        self.sigma_map = PlainSigma(cond_dim) if cond_dim else None
        self.rotary_emb = PlainRotary(width // num_heads)
        self.blocks = nn.ModuleList(
            PlainBlock(width, num_heads, cond_dim) for _ in range(num_blocks)
        )
        self.output_layer = PlainHead(width, num_outputs, cond_dim)

    def forward(self, xt: Tensor, sigma: Tensor | None = None) -> Tensor:
        cond = None
        if self.sigma_map is not None and sigma is not None:
            cond = F.silu(self.sigma_map(sigma))
        x = self.vocab_embed(xt)
        if self.position_embed is not None:
            x = x + self.position_embed.embedding[: xt.shape[1]]
        cos, sin = self.rotary_emb(xt.shape[1])
        for block in self.blocks:
            x = block(x, cos, sin, cond)
        return self.output_layer(x, cond)
