"""Vectors of tokens, their noise, and what a noised vector alone says of its token.

Noise levels are named by g = gamma - ln d, gamma being minus the log of the signal-to-noise ratio
of a number: e^(-g) is that of a whole vector, so that no schedule depends on d.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["l2", "layernorm"]
EPS = 1e-12


class Vectors(nn.Module):
    """A learned vector for each of V tokens, all of the squared length d.

    Equal lengths make `evidence` exact without their term (CDCD, arXiv 2211.15089, uses the same
    norm). `layernorm` also takes the mean out, which leaves d - 1 numbers.
    """

    def __init__(self, num_tokens: int, dim: int, norm: Norm) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tokens, dim))
        self.norm = norm

    def forward(self) -> Tensor:
        """All vectors [V, d]."""
        weight: Tensor = self.weight
        if self.norm == "layernorm":
            weight = weight - weight.mean(-1, keepdim=True)
        length = math.sqrt(self.weight.shape[1])
        # A product keeps one number a token for its gradient; F.normalize keeps them all.
        return weight * (length / weight.norm(dim=-1, keepdim=True).clamp(min=EPS))


@dataclass(frozen=True)
class Level:
    """A noise level of each row, variance preserving: z = alpha e + sigma noise.

    Attributes:
        gamma: minus the log of the signal-to-noise ratio of a number [B], float64.
    """

    gamma: Tensor

    @classmethod
    def at(cls, g: Tensor, dim: int) -> "Level":
        """The level g [B] of vectors of `dim` numbers."""
        return cls(g.double() + math.log(dim))

    @property
    def alpha(self) -> Tensor:
        """[B], alpha^2 = sigmoid(-gamma)."""
        return (-self.gamma).sigmoid().sqrt()

    @property
    def sigma(self) -> Tensor:
        """[B], sigma^2 = sigmoid(gamma)."""
        return self.gamma.sigmoid().sqrt()

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio of a number [B]."""
        return (-self.gamma).exp()

    @property
    def evidence(self) -> Tensor:
        """alpha / sigma^2 [B]: the log likelihood of a vector e, for a given z, is this times z.e.

        That holds up to what all e of one length have in common. LangFlow's c_skip (arXiv
        2604.11748) is the same number.
        """
        return self.alpha * (1 + self.snr)

    def noised(self, vectors: Tensor, noise: Tensor) -> Tensor:
        """z [B, L, d] from vectors and noise [B, L, d]."""
        return by_row(self.alpha, vectors) * vectors + by_row(self.sigma, noise) * noise


def by_row(values: Tensor, like: Tensor) -> Tensor:
    """Values [B] of rows, as [B, 1, 1] in the type of `like`."""
    return values.to(like.dtype)[:, None, None]


def gaussian(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Normal numbers in float32, on the generator's device.

    Drawn in float64, which takes others from a seed: the first ones in float32 made the vectors of
    a model that was trained with the same seed, and as noise they are its tokens in their order.
    """
    wide = torch.randn(shape, dtype=torch.float64, device=generator.device, generator=generator)
    return wide.float()
