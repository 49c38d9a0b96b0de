"""The score network: a bidirectional transformer with rotary positions, SEDD appendix C.1.

Names and shapes of parameters are those of the paper's code, so that its checkpoints load.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.sedd.layers import (
    Attention,
    Embedding,
    Norm,
    Rotary,
    SigmaEmbedding,
    TanhGELU,
    attend,
    by_row,
    heads_of,
    looked_up,
    paired,
    rotate_halves,
    rotate_pairs,
    taken,
    widened,
    zeroed,
)


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights to `dtype`; the frequencies of rotary positions stay in float32."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)


class Block(nn.Module):
    """Attention and a perceptron, each after a norm; with cond_dim, shifted, scaled and gated."""

    def __init__(self, width: int, num_heads: int, cond_dim: int | None, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.dropout = dropout
        self.norm1 = Norm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = Norm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), TanhGELU(), nn.Linear(4 * width, width)
        )
        self.adaLN_modulation: nn.Linear | None = None
        if cond_dim is not None:
            self.adaLN_modulation = zeroed(nn.Linear(cond_dim, 6 * width))

    def forward(
        self,
        x: Tensor,
        turns: Tensor,
        cond: Tensor | None,
        attention: Attention,
        ids: Tensor | None = None,
    ) -> Tensor:
        """x [B, L, D] to the same.

        With ids [B, L], and one cond for all, x [1, V, D] holds what they name: it is projected
        first, and looked up then.
        """
        modulation = self.modulation(cond)
        attended = self.attended(x, turns, modulation, attention, ids=ids)
        return self.finished(looked_up(x, ids), attended, modulation)

    def modulation(self, cond: Tensor | None) -> Tensor | None:
        """Shifts, scales and gates [B, 6 D] of rows, [1, 6 D] of all; None without cond_dim."""
        if self.adaLN_modulation is None or cond is None:
            return None
        return self.adaLN_modulation(cond)

    def attended(
        self,
        x: Tensor,
        turns: Tensor,
        modulation: Tensor | None,
        attention: Attention,
        at: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """What heads find for x [B, L, D], of its shape; [N, 1, D] at the N positions `at`.

        With ids, and no `at`, x is [1, V, D], as in `forward`.
        """
        if modulation is None:
            normed = self.norm1(x)
        else:
            normed = self.norm1(x, *modulation[:, None].chunk(6, -1)[:2])
        # Asked once: queries and keys must be turned in the order that the weight gives them.
        in_halves, weight = torch.compiler.is_compiling(), self.attn_qkv.weight
        if not in_halves:
            weight = paired(weight, self.head_dim)
        # Queries are worth gathering where they are half of all positions, or fewer.
        if at is not None and 2 * (most := int(at.sum(-1).max())) <= x.shape[1]:
            return self._attended_at(normed, weight, turns, attention, at, most)
        width = normed.shape[-1]
        projected = looked_up(F.linear(normed, weight), ids)
        both, value = torch.split(projected, [2 * width, width], dim=-1)
        both, turns = both.view(*both.shape[:2], 2, width), turns[:, :, None]
        turned = (
            rotate_halves(both, turns, self.head_dim) if in_halves else rotate_pairs(both, turns)
        )
        query, key = turned.unbind(2)
        return taken(self._asked(query, key, value, attention), at)

    def finished(
        self, x: Tensor, attended: Tensor, modulation: Tensor | None, at: Tensor | None = None
    ) -> Tensor:
        """The block's output from its x and `attended`, all [B, L, D], or [N, 1, D] at `at`."""
        attended = self._drop(self.attn_out(attended))
        if modulation is None:
            x = x + attended
            return x + self._drop(self.mlp(self.norm2(x)))
        gate1, shift2, scale2, gate2 = by_row(modulation, at).chunk(6, -1)[2:]
        x = torch.addcmul(x, gate1, attended)
        modulated = self.norm2(x, shift2, scale2)
        return torch.addcmul(x, gate2, self._drop(self.mlp(modulated)))

    def _attended_at(
        self,
        x: Tensor,
        weight: Tensor,
        turns: Tensor,
        attention: Attention,
        at: Tensor,
        most: int,
    ) -> Tensor:
        """As many queries in each row as the row with `most` positions has; N are then kept."""
        places = at.int().argsort(stable=True, dim=-1, descending=True)[:, :most]
        asking = x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
        width = x.shape[-1]
        query = rotate_pairs(F.linear(asking, weight[:width]), turns[:, places])
        key, value = F.linear(x, weight[width:]).chunk(2, -1)
        attended = self._asked(query, rotate_pairs(key, turns), value, attention)
        return taken(attended, at.gather(1, places))

    def _asked(self, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
        """Attention of queries [B, Q, D] to keys and values [B, L, D], [B, Q, D]."""
        query, key, value = (
            heads_of(x, self.num_heads).transpose(1, 2) for x in (query, key, value)
        )
        return attend(query, key, value, attention).transpose(1, 2).flatten(2)

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

    def hidden(self, x: Tensor, cond: Tensor | None, at: Tensor | None = None) -> Tensor:
        """What the linear map takes; x is [N, 1, D] where `at` [B, L] says which positions."""
        if self.adaLN_modulation is None or cond is None:
            return self.norm_final(x)
        shift, scale = by_row(self.adaLN_modulation(cond), at).chunk(2, -1)
        return self.norm_final(x, shift, scale)


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
        self.rotary_emb = Rotary(width // num_heads, num_heads)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, cond_dim, dropout) for _ in range(num_blocks)
        )
        self.output_layer = Head(width, num_outputs, cond_dim)
        self._compiled: Callable[..., tuple[Tensor, Tensor, Tensor | None]] | None = None

    @property
    def head(self) -> nn.Linear:
        """The linear map from `hidden` to outputs."""
        return self.output_layer.linear

    def compile_blocks(self) -> None:
        """Let torch.compile fuse what blocks do up to the attention of the last one.

        Training steps alone, which come in one shape, run through it. How many positions the rest
        of the last block and the head work for changes with every step.
        """
        self._compiled = torch.compile(self._to_last)

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
        turns = self.rotary_emb.turns(xt.shape[1])
        # The last block works for the positions that are asked for alone; with a gradient, its
        # attention works for every position, so that shapes stay the same.
        early = None if torch.is_grad_enabled() else at
        # What blocks add up stays in float32 where weights are narrower.
        if self._projects_states(xt, cond):
            states = widened(self.vocab_embed.embedding)[None]
            x, attended, modulation = self._to_last(states, turns, cond, early, ids=xt)
        else:
            x = widened(self.vocab_embed(xt))
            if self.position_embed is not None:
                x = x + self.position_embed.embedding[: xt.shape[1]]
            compiled = self._compiled if torch.is_grad_enabled() else None
            x, attended, modulation = (compiled or self._to_last)(x, turns, cond, early)
        if early is None:
            attended = taken(attended, at)
        last: Any = self.blocks[-1]
        x = self._kept(last.finished, taken(x, at), attended, modulation, at)
        hidden = self.output_layer.hidden(x, cond, at)
        return hidden if at is None else hidden.squeeze(1)

    def _projects_states(self, xt: Tensor, cond: Tensor | None) -> bool:
        """Whether the first block does better to project each state once than each of xt [B, L].

        It may where positions that hold the same token are alike, and no gradient is wanted.
        """
        alike = self.position_embed is None and (cond is None or len(cond) == 1)
        fewer = 2 * len(self.vocab_embed.embedding) <= xt.numel()
        return alike and fewer and len(self.blocks) > 1 and not torch.is_grad_enabled()

    def _to_last(
        self,
        x: Tensor,
        turns: Tensor,
        cond: Tensor | None,
        at: Tensor | None,
        ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x of the last block, what its attention finds, at `at`, and its modulation."""
        blocks: list[Any] = list(self.blocks)
        last = blocks.pop()
        for block in blocks:
            x, ids = self._kept(block, x, turns, cond, self.attention, ids), None
        modulation = last.modulation(cond)
        attended = self._kept(last.attended, x, turns, modulation, self.attention, at)
        return x, attended, modulation

    def _kept(self, compute: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """What `compute` gives, with or without what its backward pass needs."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            kept: Tensor = checkpoint(compute, *arguments, use_reentrant=False)
            return kept
        return compute(*arguments)
