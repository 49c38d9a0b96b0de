"""Blocks and a head over embedded positions: what a network is once its input is numbers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.kernels.attention import Attention
from pipeline.kernels.recorded import Recorded
from pipeline.network.block import Block, Head
from pipeline.network.layers import Rotary, places, taken


class Trunk(nn.Module):
    """A bidirectional transformer with rotary positions; a subclass makes x [B, L, D] of its input.

    Attributes:
        attention: which kernels attention runs on; may be changed at any time.
        activation_checkpointing: compute each block again in the backward pass, instead of keeping
            what it computed; may be changed at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention: Attention = "sdpa"
        self.activation_checkpointing = False
        self.is_divided = False
        self._recorded: Recorded | None = None
        self._compiled: Callable[..., tuple[Tensor, Tensor, Tensor | None]] | None = None

    def add_blocks(
        self,
        *,
        num_outputs: int,
        width: int,
        num_blocks: int,
        num_heads: int,
        cond_dim: int | None,
        dropout: float,
        norm_bias: bool = False,
    ) -> None:
        """Make the blocks and the head: after the embeddings, whose weights are drawn first."""
        self.rotary_emb = Rotary(width // num_heads, num_heads)
        self.blocks = nn.ModuleList(
            Block(width, num_heads, cond_dim, dropout, norm_bias) for _ in range(num_blocks)
        )
        self.output_layer = Head(width, num_outputs, cond_dim, norm_bias)

    def divided(self) -> list[nn.Module]:
        """Be told that ranks hold parts of weights; blocks that are only called as a whole."""
        self.is_divided = True
        return list(self.blocks[:-1])

    @property
    def head(self) -> nn.Linear:
        """The linear map from `through` to outputs."""
        return self.output_layer.linear

    def compile_blocks(self, *, as_graphs: bool = False) -> None:
        """Let torch.compile fuse what blocks do up to the attention of the last one.

        Training steps alone, which come in one shape, run through it. How many positions the rest
        of the last block and the head work for changes with every step.

        Args:
            as_graphs: also record the kernels of a CUDA device, to start them all at once.
        """
        mode = "reduce-overhead" if as_graphs else None
        self._compiled = torch.compile(self._to_last, mode=mode)

    def outputs(self, hidden: Tensor) -> Tensor:
        """Outputs [..., V] from what `through` gives [..., D], never rounded by autocast.

        They are what is drawn from: rounding them to bfloat16 would be a temperature.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden.to(self.head.weight.dtype))

    def through(
        self, x: Tensor, cond: Tensor | None, at: Tensor | None = None, ids: Tensor | None = None
    ) -> Tensor:
        """What the head takes, [B, L, D], or [N, D] at N positions.

        Args:
            x: positions [B, L, D], in float32 or wider; without a gradient they may be overwritten.
            cond: what shifts, scales and gates come from [B, C], or [1, C] of all rows.
            at: positions that alone are asked for: marked [B, L], or as `places` [N] among B * L,
                for which a card need not be waited for.
            ids: then x [1, V, D] holds what ids [B, L] name.
        """
        compiled = self._compiled if torch.is_grad_enabled() else None
        length = (x if ids is None else ids).shape[1]
        turns = self.rotary_emb.turns(length)
        if compiled is None:
            # torch.compile fuses no complex numbers; without it they are the quicker way.
            turns = torch.complex(*turns)
        # The last block works for the positions that are asked for alone; with a gradient, and on
        # a card, its attention works for every position, so that shapes stay the same.
        early = at
        if at is None or torch.is_grad_enabled() or at.dtype == torch.int64:
            early = None
        to_last = compiled or self._recorded or self._to_last
        x, attended, modulation = to_last(x, turns, cond, early, ids)
        here = None if at is None else places(at)
        row = None if here is None else here // length
        if early is None:
            attended = taken(attended, here)
        last: Any = self.blocks[-1]
        x = self._kept(last.finished, taken(x, here), attended, modulation, row)
        hidden = self.output_layer.hidden(x, cond, row)
        return hidden if at is None else hidden.squeeze(1)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Let a card record what blocks do, for many calls in few shapes without a gradient.

        Weights, and the type of products, stay as they are meanwhile.
        """
        # What gathers weights that are divided is not recorded.
        if self.head.weight.device.type != "cuda" or self.is_divided:
            yield
            return
        self._recorded = Recorded(self._to_last)
        try:
            yield
        finally:
            self._recorded = None

    def _to_last(
        self,
        x: Tensor,
        turns: Tensor,
        cond: Tensor | None,
        at: Tensor | None,
        ids: Tensor | None,
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
