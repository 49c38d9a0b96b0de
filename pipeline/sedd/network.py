"""The score network: a bidirectional transformer with rotary positions, SEDD appendix C.1.

Names and shapes of parameters are those of the paper's code, so that its checkpoints load.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights to `dtype`; the frequencies of rotary positions stay in float32."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)


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

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self.register_buffer("inv_freq", 1 / 10_000**exponents)

    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [L, head_dim / 2]."""
        angles = torch.outer(torch.arange(length, device=self.inv_freq.device), self.inv_freq)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [..., L, head_dim] by its position's angles [L, head_dim / 2]."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Block(nn.Module):
    """Attention and a perceptron, each after a norm; with cond_dim, shifted, scaled and gated."""

    def __init__(self, width: int, num_heads: int, cond_dim: int | None, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.norm1 = Norm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = Norm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.adaLN_modulation: nn.Linear | None = None
        if cond_dim is not None:
            self.adaLN_modulation = zeroed(nn.Linear(cond_dim, 6 * width))

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cond: Tensor | None, attention: Attention
    ) -> Tensor:
        if self.adaLN_modulation is None or cond is None:
            x = x + self._drop(self._attend(self.norm1(x), cos, sin, attention))
            return x + self._drop(self.mlp(self.norm2(x)))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(cond)[:, None].chunk(
            6, -1
        )
        modulated = torch.addcmul(shift1, self.norm1(x), 1 + scale1)
        attended = self._attend(modulated, cos, sin, attention)
        x = torch.addcmul(x, gate1, self._drop(attended))
        modulated = torch.addcmul(shift2, self.norm2(x), 1 + scale2)
        return torch.addcmul(x, gate2, self._drop(self.mlp(modulated)))

    def _attend(self, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention) -> Tensor:
        qkv = self.attn_qkv(x).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = attend(rotate(query, cos, sin), rotate(key, cos, sin), value, attention)
        return self.attn_out(attended.transpose(1, 2).flatten(2))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Head(nn.Module):
    """The last norm, and the linear map to outputs."""

    def __init__(self, width: int, num_outputs: int, cond_dim: int | None) -> None:
        super().__init__()
        self.norm_final = Norm(width)
        self.linear = zeroed(nn.Linear(width, num_outputs))
        self.adaLN_modulation: nn.Linear | None = None
        if cond_dim is not None:
            self.adaLN_modulation = zeroed(nn.Linear(cond_dim, 2 * width))

    def hidden(self, x: Tensor, cond: Tensor | None) -> Tensor:
        """What the linear map takes."""
        x = self.norm_final(x)
        if self.adaLN_modulation is not None and cond is not None:
            shift, scale = self.adaLN_modulation(cond)[:, None].chunk(2, -1)
            x = torch.addcmul(shift, x, 1 + scale)
        return x


def zeroed(linear: nn.Linear) -> nn.Linear:
    """The same layer with all parameters 0."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Transformer(nn.Module):
    """Tokens [B, L], and sigma [B] where cond_dim is given, to outputs [B, L, num_outputs].

    Attributes:
        attention: which kernels attention runs on; may be changed at any time.
        activation_checkpointing: compute each block again in the backward pass, instead of keeping
            what it computed; may be changed at any time.
    """

    def __init__(
        self,
        *,
        num_states: int,
        num_outputs: int,
        width: int,
        num_blocks: int,
        num_heads: int,
        cond_dim: int | None,
        dropout: float,
        num_positions: int | None = None,
    ) -> None:
        super().__init__()
        self.attention: Attention = "sdpa"
        self.activation_checkpointing = False
        self.vocab_embed = Embedding(num_states, width)
        # Rotary positions are relative: among masks alone, nothing tells the first from the last.
        self.position_embed = Embedding(num_positions, width) if num_positions else None
        if cond_dim is None:
            # Without gates that start closed, blocks would drown smaller embeddings.
            for embedding in self.vocab_embed, self.position_embed:
                if embedding is not None:
                    nn.init.normal_(embedding.embedding)
        self.sigma_map = SigmaEmbedding(cond_dim) if cond_dim is not None else None
        self.rotary_emb = Rotary(width // num_heads)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, cond_dim, dropout) for _ in range(num_blocks)
        )
        self.output_layer = Head(width, num_outputs, cond_dim)

    @property
    def head(self) -> nn.Linear:
        """The linear map from `hidden` to outputs."""
        return self.output_layer.linear

    def compile_blocks(self) -> None:
        """Let torch.compile fuse what blocks do between their matrix products.

        The head is left alone: how many positions it sees changes with every step.
        """
        for block in self.blocks:
            block.compile()

    def forward(self, xt: Tensor, sigma: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Outputs [B, L, num_outputs], or [N, num_outputs] at the N positions `at` [B, L] marks."""
        return self.head(self.hidden(xt, sigma, at))

    def hidden(self, xt: Tensor, sigma: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """What the head takes, [B, L, D], or [N, D] at the N positions that `at` [B, L] marks.

        One sigma [1] serves all rows.

        Raises:
            ValueError: the network takes sigma, and there is none.
        """
        cond = None
        if self.sigma_map is not None:
            if sigma is None:
                raise ValueError("this network takes sigma")
            cond = F.silu(self.sigma_map(sigma))
        # What blocks add up stays in float32 where weights are narrower.
        x = widened(self.vocab_embed(xt))
        if self.position_embed is not None:
            x = x + self.position_embed.embedding[: xt.shape[1]]
        cos, sin = self.rotary_emb.angles(xt.shape[1])
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, cond, self.attention, use_reentrant=False)
            else:
                x = block(x, cos, sin, cond, self.attention)
        hidden = self.output_layer.hidden(x, cond)
        if at is None:
            return hidden
        # Its gradient is a plain sum of rows; that of a boolean index sorts first.
        return hidden.flatten(0, 1).index_select(0, at.flatten().nonzero().squeeze(-1))
