"""A block of the score network, and its head; names of parameters are those of the paper's code."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.kernels.attention import Attention, attend
from pipeline.kernels.perceptron import Perceptron
from pipeline.kernels.precision import computes_plainly
from pipeline.network.layers import (
    Norm,
    by_row,
    heads_of,
    looked_up,
    paired,
    rotate_halves,
    rotate_pairs,
    taken,
    zeroed,
)


class Block(nn.Module):
    """Attention and a perceptron, each after a norm; with cond_dim, shifted, scaled and gated."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        cond_dim: int | None,
        dropout: float,
        norm_bias: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.dropout = dropout
        self.norm1 = Norm(width, norm_bias)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = Norm(width, norm_bias)
        self.mlp = Perceptron(width)
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
        """x [B, L, D] to the same; without a gradient x may be overwritten.

        With ids [B, L], and one cond for all, x [1, V, D] holds what they name: it is projected
        first, and looked up then. Complex `turns` [L, D / 2] go to `rotate_pairs`, real ones
        [2, L, D / 2] to `rotate_halves`.
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

        With ids, and no `at`, x is [1, V, D]; ids and `turns` are as in `forward`.
        """
        if modulation is None:
            normed = self.norm1(x)
        else:
            normed = self.norm1(x, *modulation[:, None].chunk(6, -1)[:2])
        weight, in_pairs = self.attn_qkv.weight, turns.is_complex()
        if in_pairs:
            weight = paired(weight, self.head_dim)
        # Queries are worth gathering where they are half of all positions, or fewer.
        if at is not None and 2 * (most := int(at.sum(-1).max())) <= x.shape[1]:
            return self._attended_at(normed, weight, turns, attention, at, most)
        width = normed.shape[-1]
        projected = looked_up(F.linear(normed, weight), ids)
        both, value = torch.split(projected, [2 * width, width], dim=-1)
        both, turns = both.view(*both.shape[:2], 2, width), turns.unsqueeze(-2)
        turned = (
            rotate_pairs(both, turns) if in_pairs else rotate_halves(both, turns, self.head_dim)
        )
        query, key = turned.unbind(2)
        return taken(self._asked(query, key, value, attention), at)

    def finished(
        self, x: Tensor, attended: Tensor, modulation: Tensor | None, row: Tensor | None = None
    ) -> Tensor:
        """The block's output from its x and `attended`, all [B, L, D], or [N, 1, D] of rows [N].

        Without a gradient x may be overwritten.
        """
        gate1 = shift2 = scale2 = gate2 = None
        if modulation is not None:
            gate1, shift2, scale2, gate2 = by_row(modulation, row).chunk(6, -1)[2:]
        x = self._added(x, gate1, self.attn_out, attended)
        inner = self.mlp.inner(self.norm2(x, shift2, scale2))
        return self._added(x, gate2, self.mlp.down, inner)

    def _added(self, x: Tensor, gate: Tensor | None, linear: nn.Linear, y: Tensor) -> Tensor:
        """x + gate * linear(y), after dropout, perhaps written to x.

        x is [B, L, D], y [B, L, C], and the gate [B, 1, D], [1, 1, D] for all, or None for 1.
        """
        weight = linear.weight
        # One gate for all can be part of the weight, which is worth it where x has more numbers.
        folds = gate is None or (len(gate) == 1 and weight.numel() <= x.numel())
        if folds and computes_plainly(x, weight) and not (self.dropout and self.training):
            return _add_linear_(x, gate, linear, y)
        added = self._drop(linear(y))
        return x + added if gate is None else torch.addcmul(x, gate, added)

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
        query = rotate_pairs(F.linear(asking, weight[:width]), turns[places])
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


def _add_linear_(x: Tensor, gate: Tensor | None, linear: nn.Linear, y: Tensor) -> Tensor:
    """x + gate * linear(y), written to x: the product adds to it, and the gate costs no pass.

    Shapes are those of `Block._added`, with one gate for all, or none.
    """
    weight, bias = linear.weight.T, linear.bias
    if gate is not None:
        weight = weight * gate.flatten()
    if bias is not None:
        x += bias if gate is None else bias * gate
    x.view(-1, x.shape[-1]).addmm_(y.flatten(0, 1), weight)
    return x


class Head(nn.Module):
    """The last norm, and the linear map to outputs."""

    def __init__(
        self, width: int, num_outputs: int, cond_dim: int | None, norm_bias: bool = False
    ) -> None:
        super().__init__()
        self.norm_final = Norm(width, norm_bias)
        self.linear = zeroed(nn.Linear(width, num_outputs))
        self.adaLN_modulation: nn.Linear | None = None
        if cond_dim is not None:
            self.adaLN_modulation = zeroed(nn.Linear(cond_dim, 2 * width))

    def hidden(self, x: Tensor, cond: Tensor | None, row: Tensor | None = None) -> Tensor:
        """What the linear map takes of x [B, L, D], or of x [N, 1, D] in rows [N]."""
        if self.adaLN_modulation is None or cond is None:
            return self.norm_final(x)
        shift, scale = by_row(self.adaLN_modulation(cond), row).chunk(2, -1)
        return self.norm_final(x, shift, scale)
