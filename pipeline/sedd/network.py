"""The score network: a bidirectional transformer with rotary positions, SEDD appendix C.1.

Names and shapes of parameters are those of the paper's code, so that its checkpoints load.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.sedd.block import Block, Head
from pipeline.sedd.layers import Attention, Embedding, Rotary, SigmaEmbedding, taken, widened


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights to `dtype`; the frequencies of rotary positions stay in float32."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)


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
        compiled = self._compiled if torch.is_grad_enabled() else None
        turns = self.rotary_emb.turns(xt.shape[1])
        if compiled is None:
            # torch.compile fuses no complex numbers; without it they are the quicker way.
            turns = torch.complex(*turns)
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
