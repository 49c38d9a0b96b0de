"""Continuous embedding diffusion: a denoiser of token vectors under Gaussian noise."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from pipeline.kernels.expected import Expected
from pipeline.methods.embedding.clock import Clock, Kind
from pipeline.methods.embedding.network import Denoiser, Input
from pipeline.methods.embedding.vectors import Level, Norm, Vectors
from pipeline.methods.protocol import Model, wrong_sizes

Loss = Literal["likelihood", "cross_entropy", "half", "mse_cross_entropy"]
MOST_G = 40
"""Levels lie within plus and minus this: further out nothing changes that float32 can hold."""


@dataclass(frozen=True)
class EmbeddingConfig:
    """Everything that defines a model but its weights."""

    vocab_size: int
    length: int
    width: int
    num_blocks: int
    num_heads: int
    cond_dim: int | None
    dropout: float
    dim: int
    norm: Norm
    input: Input
    loss: Loss
    clock: Kind
    g_min: float
    g_max: float
    self_condition: float
    known: float
    method: Literal["embedding"] = "embedding"

    def __post_init__(self) -> None:
        """Refuse values that are out of range, all of them at once, with ValueError."""
        sizes = ["vocab_size", "length", "width", "num_blocks", "num_heads", "dim"]
        sizes += ["cond_dim"] * (self.cond_dim is not None)
        mistakes = wrong_sizes(self, sizes)
        if self.vocab_size == 1 or (self.norm == "layernorm" and self.dim == 1):
            mistakes.append("vocab_size, and dim with layernorm, must be at least 2")
        if (self.cond_dim is None) != (self.input == "evidence"):
            mistakes.append(f"cond_dim is for the input vector (got {self.cond_dim})")
        if not -MOST_G <= self.g_min < self.g_max <= MOST_G:
            mistakes.append(
                f"g_min must be less than g_max, both within -{MOST_G}..{MOST_G} "
                f"(got {self.g_min} and {self.g_max})"
            )
        if not 0 <= self.dropout < 1:
            mistakes.append(f"dropout must be at least 0 and less than 1 (got {self.dropout})")
        for name in "self_condition", "known":
            if not 0 <= (share := getattr(self, name)) <= 1:
                mistakes.append(f"{name} must lie from 0 to 1 (got {share})")
        if mistakes:
            raise ValueError("; ".join(mistakes))

    def asdict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


class EmbeddingDiffusion(Model):
    """A model over sequences of up to `length` tokens, each a vector under Gaussian noise.

    What it expects is p E, the mean of the vectors E under its distribution p of tokens (score
    interpolation, CDCD, arXiv 2211.15089), which makes a bound of any p: see `bound`.
    """

    config: EmbeddingConfig
    network: Denoiser

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        self.config = config
        self.length = config.length
        self.network = Denoiser(
            vectors=Vectors(config.vocab_size, config.dim, config.norm),
            clock=Clock(config.clock, config.g_min, config.g_max, config.vocab_size, config.dim),
            input=config.input,
            estimates=config.self_condition > 0,
            regresses=config.loss == "mse_cross_entropy",
            length=config.length,
            width=config.width,
            num_blocks=config.num_blocks,
            num_heads=config.num_heads,
            cond_dim=config.cond_dim,
            dropout=config.dropout,
        )

    @property
    def clock(self) -> Clock:
        """Which noise level a time has."""
        return self.network.clock

    @property
    def passes(self) -> int:
        """Calls of the network that an estimate from z alone takes: with self-conditioning two."""
        return 2 if self.config.self_condition > 0 else 1

    def level(self, g: Tensor) -> Level:
        """The noise level g [B]."""
        return Level.at(g, self.config.dim)

    def expect(self, z: Tensor, g: Tensor, known: Tensor, ids: Tensor) -> Expected:
        """The mean vector [B, L, d] given z alone, and -log p of ids [B, L].

        A self-conditioned model is called twice, the second time with what it expected first:
        so the estimate is a function of z, and its bound a bound (as Plaid evaluates it).
        """
        estimate = None
        for _ in range(self.passes):
            hidden = self.network.hidden(z, g, known, estimate)
            found = self.network.expect(hidden, z, g, ids)
            estimate = found.mean
        return found
