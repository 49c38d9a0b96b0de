"""Embedding diffusion in its plain formulation, the bench's opponent: every [B, L, V] is whole.

Names and shapes of parameters are the product's, and its clock and levels are used.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_network import PlainBlock, PlainEmbedding, PlainHead, PlainRotary
from pipeline.methods.draws import FREE, categorical, uniform
from pipeline.methods.embedding.clock import Clock
from pipeline.methods.embedding.model import EmbeddingConfig, EmbeddingDiffusion
from pipeline.methods.embedding.vectors import Level, gaussian


class PlainVectors(nn.Module):
    """Vectors of tokens [V, d], of the length sqrt(d)."""

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tokens, dim))

    def forward(self) -> Tensor:
        return math.sqrt(self.weight.shape[1]) * F.normalize(self.weight, dim=-1)


class PlainInput(nn.Module):
    """What evidence [B, L, V] mixes of token embeddings, and those of known tokens."""

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.vocab_embed = PlainEmbedding(num_tokens, width)

    def forward(self, evidence: Tensor, known: Tensor) -> Tensor:
        mixed = evidence.softmax(-1) @ self.vocab_embed.embedding
        looked_up = self.vocab_embed(known.clamp(min=0))
        return torch.where((known == FREE)[..., None], mixed, looked_up)


class PlainDenoiser(nn.Module):
    """Noised vectors z [B, L, d] to logits [B, L, V], with evidence for input."""

    def __init__(self, config: EmbeddingConfig, clock: Clock) -> None:
        super().__init__()
        self.clock, width = clock, config.width
        self.vectors = PlainVectors(config.vocab_size, config.dim)
        self.input = PlainInput(config.vocab_size, width)
        self.estimate_map = nn.Linear(config.dim, width, bias=False)
        self.position_embed = PlainEmbedding(config.length, width)
        self.rotary_emb = PlainRotary(width // config.num_heads)
        self.blocks = nn.ModuleList(
            PlainBlock(width, config.num_heads, None) for _ in range(config.num_blocks)
        )
        self.output_layer = PlainHead(width, config.vocab_size, None)

    def forward(
        self, z: Tensor, level: Level, known: Tensor, vectors: Tensor, estimate: Tensor
    ) -> Tensor:
        evidence = (level.evidence[:, None, None].to(z.dtype) * z) @ vectors.T
        is_free = (known == FREE)[..., None]
        x = self.input(evidence, known) + self.estimate_map(estimate * is_free)
        x = x + self.position_embed.embedding[: z.shape[1]]
        cos, sin = self.rotary_emb(z.shape[1])
        for block in self.blocks:
            x = block(x, cos, sin, None)
        logits: Tensor = self.output_layer(x, None) + evidence
        return logits


def plain_model(config: EmbeddingConfig) -> EmbeddingDiffusion:
    """A model whose network is the plain one, for input `evidence`, norm `l2` and loss `half`."""
    model = EmbeddingDiffusion(config)
    network = PlainDenoiser(config, model.clock)
    network.load_state_dict(model.network.state_dict())
    model.network = network  # type: ignore[assignment]
    return model


def plain_loss(
    model: EmbeddingDiffusion,
    x0: Tensor,
    known: Tensor,
    t: Tensor,
    scale: Tensor,
    estimated: Tensor,
    noise: Tensor,
) -> Tensor:
    """Nats, half cross-entropy and half the bound's integrand, of what the objective drew."""
    network, vectors = model.network, model.network.vectors()
    g, slope = model.clock.g_and_slope(t)
    level, e = model.level(g), F.embedding(x0, vectors)
    z = level.noised(e, noise)
    estimate = torch.zeros_like(z)
    with torch.no_grad():
        first = Level(level.gamma[estimated])
        if estimated.any():
            logits = network(z[estimated], first, known[estimated], vectors, estimate[estimated])
            estimate[estimated] = logits.softmax(-1) @ vectors
    log_p = network(z, level, known, vectors, estimate).log_softmax(-1)
    is_free = (known == FREE).to(z.dtype)
    cross_entropy = F.nll_loss(log_p.flatten(0, 1), x0.flatten(), reduction="none").view_as(is_free)
    error = (e - log_p.exp() @ vectors).square().sum(-1)
    by_g = (error * is_free).sum(-1) * (level.snr / 2).to(z.dtype)
    model.clock.observe(g, by_g * is_free.shape[1] / is_free.sum(-1))
    nats = ((cross_entropy * is_free).sum(-1) + by_g * slope.to(z.dtype)) / 2
    return (nats * scale.to(z.dtype)).sum()


@torch.no_grad()
def plain_sample(
    model: EmbeddingDiffusion, num: int, num_steps: int, generator: torch.Generator
) -> Tensor:
    """Draw `num` sequences [num, L] by ddim in `num_steps` steps, and the draw of tokens."""
    shape, vectors = (num, model.length), model.network.vectors()
    z = gaussian((*shape, model.config.dim), generator).to(vectors)
    estimate, known = torch.zeros_like(z), torch.full(shape, FREE)
    levels = model.clock.g(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64))
    p = z.new_zeros(*shape, 1)
    for step in range(num_steps + 1):
        now = model.level(levels[step : step + 1])
        p = model.network(z, now, known, vectors, estimate).softmax(-1)
        if step < num_steps:
            estimate, after = p @ vectors, model.level(levels[step + 1 : step + 2])
            alpha, sigma, next_alpha, next_sigma = (
                each.to(z.dtype) for each in (now.alpha, now.sigma, after.alpha, after.sigma)
            )
            z = next_alpha * estimate + next_sigma / sigma * (z - alpha * estimate)
    return categorical(p.flatten(0, 1), uniform(shape, generator).flatten()).view(shape)
