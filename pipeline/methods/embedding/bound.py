"""Upper bound on the negative log-likelihood, in nats, every term by name (VDM, arXiv 2107.00630).

It holds for any vectors, any estimate that is a function of z, any clock, trained by any loss.

integral: half the squared error of the estimate over the signal-to-noise ratio, by levels g.
prior: divergence of the fully noised text from the normal distribution.
reconstruction: -log of the tokens at the lowest level.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.methods.draws import FREE
from pipeline.methods.embedding.loss import squared_error
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.embedding.vectors import gaussian
from pipeline.methods.estimates import Bound, replicate_times


@torch.no_grad()
def draw_bound(
    model: EmbeddingDiffusion,
    x0: Tensor,
    *,
    num_replicates: int,
    num_draws: int,
    batch_size: int,
    generator: torch.Generator,
    on_replicate: Callable[[], object] | None = None,
) -> Bound:
    """Estimate the bound for texts x0 [N, L] by independent replicates of a stratified draw.

    Times pass as the root mean square of nats does, which spreads the draws least; within a
    replicate they stand one in each of N * num_draws equal intervals, in antithetic pairs t and
    1 - t. Draws are thus dependent: the Monte Carlo error comes from the spread between replicates.

    Args:
        model: the model, in eval mode.
        x0: clean tokens, on the generator's device.
        num_replicates: R.
        num_draws: draws a text in each replicate, an even number.
        batch_size: texts a network call.
        generator: source of randomness.
        on_replicate: called after each replicate.
    Returns:
        the terms of the bound; of a self-conditioned model, that of its estimate in two passes.
    Raises:
        ValueError: num_draws is not even.
    """
    if num_draws < 2 or num_draws % 2:
        raise ValueError(f"num_draws must be even and at least 2 (got {num_draws})")
    integral, reconstruction = [], []
    for _ in range(num_replicates):
        times = replicate_times(len(x0), num_draws // 2, generator)
        drawn = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        for t in times:
            for rows in torch.split(torch.arange(len(x0), device=x0.device), batch_size):
                for half in t[rows], 1 - t[rows]:
                    drawn[rows] += draw_integral(model, x0[rows], half, generator)
        integral.append(drawn / num_draws)
        pieces = [
            draw_reconstruction(model, piece, generator) for piece in torch.split(x0, batch_size)
        ]
        reconstruction.append(torch.cat(pieces))
        if on_replicate is not None:
            on_replicate()
    two = "the estimate in two passes; samples take one a step" if model.passes == 2 else None
    return Bound(torch.stack(integral), prior_nats(model, x0), torch.stack(reconstruction), two)


def draw_integral(
    model: EmbeddingDiffusion, x0: Tensor, t: Tensor, generator: torch.Generator
) -> Tensor:
    """The integrand of x0 [B, L] at times t [B], nats a text [B], float64, at one draw of z."""
    g, slope = model.clock.g_and_slope(t, by_nats=True)
    return slope * diffusion_nats(model, x0, g, generator).sum(-1)


def diffusion_nats(
    model: EmbeddingDiffusion, x0: Tensor, g: Tensor, generator: torch.Generator
) -> Tensor:
    """Nats a unit of g, by position [B, L], float64, at one draw of z at levels g [B]."""
    z, vectors = noised_vectors(model, x0, g, generator)
    mean = model.expect(z, g, torch.full_like(x0, FREE), x0).mean
    return squared_error(vectors, mean).double() * (model.level(g).snr / 2)[:, None]


def noised_vectors(
    model: EmbeddingDiffusion, x0: Tensor, g: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """z and vectors of x0 [B, L] at levels g [B], both [B, L, d]."""
    vectors = F.embedding(x0, model.network.vectors())
    noise = gaussian(vectors.shape, generator).to(vectors)
    return model.level(g).noised(vectors, noise), vectors


def prior_nats(model: EmbeddingDiffusion, x0: Tensor) -> Tensor:
    """Divergence of z at the highest level from the normal distribution, nats a text [N]."""
    level = model.level(torch.full((len(x0),), model.clock.g_max, device=x0.device))
    # In all (alpha^2 |e|^2 / d + sigma^2 - 1) / 2 - log sigma a number; all |e|^2 are d.
    return x0.shape[1] * model.config.dim * F.softplus(-level.gamma) / 2


def draw_reconstruction(
    model: EmbeddingDiffusion, x0: Tensor, generator: torch.Generator
) -> Tensor:
    """-log of x0 [B, L] at the lowest level, nats a text [B], float64, at one draw of z."""
    g = torch.full((len(x0),), model.clock.g_min, dtype=torch.float64, device=x0.device)
    z, _ = noised_vectors(model, x0, g, generator)
    return model.expect(z, g, torch.full_like(x0, FREE), x0).nats.double().sum(-1)
