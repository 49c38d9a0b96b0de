"""Upper bound on the negative log-likelihood, in nats, every term by name (VDM, arXiv 2107.00630).

It holds for any vectors, any estimate that is a function of z, any clock, trained by any loss.

integral: half the squared error of the estimate over the signal-to-noise ratio, by levels g.
prior: divergence of the fully noised text from the normal distribution.
reconstruction: -log of the tokens at the lowest level.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.methods.draws import FREE
from pipeline.methods.embedding.loss import squared_error
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.embedding.vectors import gaussian
from pipeline.methods.estimates import Bound, Texts, draw_replicates
from pipeline.scale.units import UNKEPT, Units


@torch.no_grad()
def draw_bound(
    model: EmbeddingDiffusion,
    x0: Texts,
    *,
    num_replicates: int,
    num_draws: int,
    batch_size: int,
    seed: int,
    known: Tensor | None = None,
    units: Units = UNKEPT,
) -> Bound:
    """Estimate the bound for texts x0 [N, L] by `draw_replicates`, whose arguments it takes.

    Times pass as the root mean square of nats does, which spreads the draws least. Of a
    self-conditioned model the bound is that of its estimate in two passes.

    Raises:
        ValueError: num_draws is not even, or the model never saw known positions.
    """
    if known is not None and not model.config.known:
        raise ValueError("the model was trained without known positions")

    def pair(x0: Tensor, t: Tensor, known: Tensor | None, generator: torch.Generator) -> Tensor:
        first = draw_integral(model, x0, t, generator, known)
        return first + draw_integral(model, x0, 1 - t, generator, known)

    integral, reconstruction = draw_replicates(
        x0,
        pair,
        lambda x0, known, generator: draw_reconstruction(model, x0, generator, known),
        device=model.device,
        num_replicates=num_replicates,
        num_draws=num_draws,
        batch_size=batch_size,
        seed=seed,
        known=known,
        units=units,
    )
    two = "the estimate in two passes; samples take one a step" if model.passes == 2 else None
    prior = prior_nats(model, x0).cpu()
    if known is not None:
        prior = prior * (~known).double().mean(-1).cpu()
    return Bound(integral, prior, reconstruction, two)


def draw_integral(
    model: EmbeddingDiffusion,
    x0: Tensor,
    t: Tensor,
    generator: torch.Generator,
    known: Tensor | None = None,
) -> Tensor:
    """The integrand of x0 [B, L] at times t [B], nats a text [B], float64, at one draw of z."""
    g, slope = model.clock.g_and_slope(t, by_nats=True)
    return slope * diffusion_nats(model, x0, g, generator, known).sum(-1)


def diffusion_nats(
    model: EmbeddingDiffusion,
    x0: Tensor,
    g: Tensor,
    generator: torch.Generator,
    known: Tensor | None = None,
) -> Tensor:
    """Nats a unit of g, by position [B, L], float64, at one draw of z at levels g [B]."""
    z, vectors = noised_vectors(model, x0, g, generator)
    mean = model.expect(z, g, _tokens(x0, known), x0).mean
    nats = squared_error(vectors, mean).double() * (model.level(g).snr / 2)[:, None]
    return nats if known is None else nats.masked_fill(known, 0)


def _tokens(x0: Tensor, known: Tensor | None) -> Tensor:
    """x0 [B, L] at the positions that are known, FREE elsewhere."""
    return torch.full_like(x0, FREE) if known is None else x0.where(known, FREE)


def noised_vectors(
    model: EmbeddingDiffusion, x0: Tensor, g: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """z and vectors of x0 [B, L] at levels g [B], both [B, L, d]."""
    vectors = F.embedding(x0, model.network.vectors())
    noise = gaussian(vectors.shape, generator).to(vectors)
    return model.level(g).noised(vectors, noise), vectors


def prior_nats(model: EmbeddingDiffusion, x0: Texts) -> Tensor:
    """Divergence of z at the highest level from the normal distribution, nats a text [N]."""
    level = model.level(torch.full((len(x0),), model.clock.g_max, device=model.device))
    # In all (alpha^2 |e|^2 / d + sigma^2 - 1) / 2 - log sigma a number; all |e|^2 are d.
    return x0.shape[1] * model.config.dim * F.softplus(-level.gamma) / 2


def draw_reconstruction(
    model: EmbeddingDiffusion, x0: Tensor, generator: torch.Generator, known: Tensor | None = None
) -> Tensor:
    """-log of x0 [B, L] at the lowest level, nats a text [B], float64, at one draw of z."""
    g = torch.full((len(x0),), model.clock.g_min, dtype=torch.float64, device=x0.device)
    z, _ = noised_vectors(model, x0, g, generator)
    nats = model.expect(z, g, _tokens(x0, known), x0).nats.double()
    return (nats if known is None else nats.masked_fill(known, 0)).sum(-1)
