"""The network: noised vectors, known tokens and an earlier estimate to what a head takes."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.kernels.expected import Expected, expected
from pipeline.kernels.precision import widened
from pipeline.methods.embedding.clock import Clock
from pipeline.methods.embedding.vectors import Level, Vectors, by_row
from pipeline.network.layers import Embedding, SigmaEmbedding, zeroed
from pipeline.network.trunk import Trunk

Input = Literal["evidence", "vector"]


def picked(x: Tensor, at: Tensor | None) -> Tensor:
    """x [B, L, ...] at all its positions, or at the places `at` [N] among them, [N, ...]."""
    x = x.flatten(0, 1)
    return x if at is None else x.index_select(0, at)


class EvidenceInput(nn.Module):
    """Token embeddings weighed by what each noised vector says: the softmax of its evidence.

    It says all that z does, noise level included. A known token is its embedding.
    """

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.vocab_embed = Embedding(num_tokens, width)
        nn.init.normal_(self.vocab_embed.embedding)

    def forward(
        self, z: Tensor, level: Level, known: Tensor, vectors: Tensor, at: Tensor | None = None
    ) -> Tensor:
        """x [B, L, D] from z [B, L, d], known ids [B, L] and the vectors [V, d].

        Where no token is known at the places `at` [N] alone, only they cost anything.
        """
        ids = known.clamp(min=0)
        looked_up = widened(self.vocab_embed(ids))
        evidence = picked(by_row(level.evidence, z) * z, at)
        # Nobody asks for -log p here, of whatever id.
        mixed = expected(evidence, vectors, None, self.vocab_embed.embedding, picked(ids, at)).mean
        if at is None:
            return torch.where((known < 0)[..., None], mixed.view_as(looked_up), looked_up)
        return looked_up.flatten(0, 1).index_copy(0, at, mixed).view_as(looked_up)


class VectorInput(nn.Module):
    """Linear maps of noised vectors, and of those of known tokens, whose bias is a mark."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.vector_map = nn.Linear(dim, width)
        self.known_map = zeroed(nn.Linear(dim, width))

    def forward(
        self, z: Tensor, level: Level, known: Tensor, vectors: Tensor, at: Tensor | None = None
    ) -> Tensor:
        """As `EvidenceInput.forward`."""
        is_free = (known < 0)[..., None]
        known_vectors = F.embedding(known.clamp(min=0), vectors)
        x = torch.where(is_free, self.vector_map(z), self.known_map(known_vectors))
        return widened(x)


class Denoiser(Trunk):
    """What tokens noised vectors stand for.

    Its logits are those of the head plus each position's own evidence, alpha / sigma^2 z E^T, so
    that a head of zeros gives the exact posterior under a uniform prior (Plaid, arXiv 2305.18619).
    """

    def __init__(
        self,
        *,
        vectors: Vectors,
        clock: Clock,
        input: Input,
        estimates: bool,
        regresses: bool,
        length: int,
        width: int,
        num_blocks: int,
        num_heads: int,
        cond_dim: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.vectors, self.clock = vectors, clock
        num_tokens, dim = vectors.weight.shape
        self.input = (
            EvidenceInput(num_tokens, width) if input == "evidence" else VectorInput(dim, width)
        )
        self.level_map = None if cond_dim is None else SigmaEmbedding(cond_dim)
        # No bias: an estimate of zeros must be as good as none.
        self.estimate_map = zeroed(nn.Linear(dim, width, bias=False)) if estimates else None
        self.position_embed = Embedding(length, width)
        nn.init.normal_(self.position_embed.embedding)
        self.regression = nn.Linear(width, dim) if regresses else nn.Identity()
        self.add_blocks(
            num_outputs=num_tokens,
            width=width,
            num_blocks=num_blocks,
            num_heads=num_heads,
            cond_dim=cond_dim,
            dropout=dropout,
        )

    def hidden(
        self,
        z: Tensor,
        g: Tensor,
        known: Tensor,
        estimate: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """What the heads take [B, L, D], or [N, D] at N places.

        Args:
            z: noised vectors [B, L, d]; of no effect where a token is known.
            g: noise level [B].
            known: token ids [B, L], negative where none is known.
            estimate: what an earlier call expected [B, L, d]; of no effect where a token is known.
            at: the places [N] among B * L where no token is known, if they alone are asked for.
        """
        x = self.input(z, Level.at(g, z.shape[-1]), known, self.vectors(), at)
        if estimate is not None and self.estimate_map is not None:
            x = x + self.estimate_map(estimate * (known < 0)[..., None])
        x = x + self.position_embed.embedding[: z.shape[1]]
        cond = None if self.level_map is None else F.silu(self.level_map(g.float()))
        return self.through(x, cond, at)

    def expect(
        self, hidden: Tensor, z: Tensor, g: Tensor, ids: Tensor, at: Tensor | None = None
    ) -> Expected:
        """The mean vector [B, L, d] and -log of the probability of ids [B, L], from `hidden`.

        At the places `at` alone, if given, and 0 elsewhere.
        """
        vectors, head = self.vectors(), self.head
        evidence = picked(by_row(Level.at(g, z.shape[-1]).evidence, z) * z, at)
        hidden = hidden.flatten(0, -2)
        found = expected(hidden, head.weight, head.bias, vectors, picked(ids, at), evidence)
        if at is not None:
            found = Expected(
                *(x.new_zeros(ids.numel(), *x.shape[1:]).index_copy(0, at, x) for x in found)
            )
        return Expected(found.mean.view_as(z), found.nats.view_as(ids))

    def logits(self, hidden: Tensor, evidence: Tensor) -> Tensor:
        """Logits [n, V] of some positions, never rounded, from `hidden` and alpha / sigma^2 z."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.outputs(hidden) + widened(evidence) @ widened(self.vectors()).T
