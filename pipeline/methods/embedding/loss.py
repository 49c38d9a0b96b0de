"""Training losses, and the tokens that training gives away for infilling."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.kernels.expected import Expected
from pipeline.kernels.gradient_memory import clear_gradients
from pipeline.methods.draws import FREE
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.embedding.network import picked
from pipeline.methods.estimates import stratified_times
from pipeline.methods.protocol import own
from pipeline.network.layers import places

ROWS_A_RECONSTRUCTION = 16
"""With the loss `likelihood`, one row in so many is for the reconstruction term (as Plaid does)."""


def draw_known(x0: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Tokens that are known [B, L], FREE elsewhere, in a share of the rows of x0 [B, L].

    In each such row their number is uniform in 1..L - 1, of one token 0; by halves they are one run
    of positions, or scattered.
    """
    num, length = x0.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, device=x0.device, generator=generator)

    count = 1 + (uniform(num, 1) * (length - 1)).long().clamp(max=length - 2)
    start = (uniform(num, 1) * (length - count + 1)).long().clamp(max=length - count)
    places = torch.arange(length, device=x0.device)
    in_run = (places >= start) & (places < start + count)
    scattered = uniform(num, length).argsort(-1).argsort(-1) < count
    chosen = torch.where(uniform(num, 1) < 0.5, in_run, scattered)
    return torch.where(chosen & (uniform(num, 1) < share), x0, FREE)


def squared_error(vectors: Tensor, mean: Tensor) -> Tensor:
    """Squared distance [B, L] of what is expected from the vectors [B, L, d]."""
    return (vectors - mean).square().sum(-1)


class Denoising:
    """Embedding diffusion as a method that the training loop can train."""

    def __init__(self, model: EmbeddingDiffusion) -> None:
        self.module = model

    def divided(self) -> list[nn.Module]:
        """See Objective."""
        return self.module.network.divided()

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """(x0, known, t, scale, estimated, noise) of a whole batch x0 [B, L].

        Args:
            x0: clean tokens.
            generator: source of randomness.
        Returns:
            beside x0 the tokens that are known [B, L], times [B] of which 0 asks for the
            reconstruction, what each row's loss is multiplied by [B], which rows get an estimate
            first [B], and noise [B, L, d].
        """
        config, num = self.module.config, len(x0)
        if config.loss == "likelihood":
            first = -(-num // ROWS_A_RECONSTRUCTION)
            t = F.pad(stratified_times(num - first, 0.0, generator), (first, 0))
            scale = torch.where(t == 0, num / first, num / max(1, num - first))
        else:
            t = stratified_times(num, 0.0, generator)
            scale = torch.ones(num, device=x0.device)
        known = draw_known(x0, config.known, generator)
        # All free positions count alike, and not all rows: on names the bound is the better for it.
        scale = scale * (x0.numel() / (known == FREE).sum())
        estimated = torch.rand(num, device=x0.device, generator=generator) < config.self_condition
        noise = torch.randn(*x0.shape, config.dim, device=x0.device, generator=generator)
        return x0, known, t, scale, estimated, noise

    def located(self, *drawn: Tensor) -> tuple[Tensor, ...]:
        """With the rows that get an estimate first, and the places of free positions.

        Places are among B * L, and among those of these rows; nothing is computed elsewhere that
        no other position needs.
        """
        is_free, rows = drawn[1] == FREE, drawn[4].nonzero().squeeze(-1)
        return *drawn, rows, places(is_free), places(is_free[rows])

    def loss(self, *drawn: Tensor) -> Tensor:
        """Nats, a scalar: the sum over the rows of what `draw` returned, and over free positions.

        `likelihood` is the bound itself but for its constant prior (VDM, arXiv 2107.00630);
        `cross_entropy` is that of the tokens at a random time (CDCD); `half` is half of each, and
        `mse_cross_entropy` adds to the second the mean squared error of a head of its own
        (simple-diffusion-lm).
        """
        x0, known, t, scale, _, noise, *located = drawn
        rows, at, first_at = located or self.located(*drawn)[6:]
        network, clock = self.module.network, self.module.clock
        g, slope = clock.g_and_slope(t)
        level, vectors = self.module.level(g), F.embedding(x0, network.vectors())
        z = level.noised(vectors, noise)
        estimate = self._first_estimate(z, g, known, rows, first_at)
        hidden = network.hidden(z, g, known, estimate, at)
        found = network.expect(hidden, z, g, x0, at)
        is_free = (known == FREE).float()
        by_g = (squared_error(vectors, found.mean) * is_free).sum(-1) * (level.snr / 2).float()
        if self.module.training and torch.is_grad_enabled():
            clock.observe(g, by_g * is_free.shape[1] / is_free.sum(-1).clamp(min=1))
        nats = self._of(found, hidden, vectors, at, by_g * slope.float(), t)
        return (nats * scale.float()).sum()

    def _of(
        self,
        found: Expected,
        hidden: Tensor,
        vectors: Tensor,
        at: Tensor,
        diffusion: Tensor,
        t: Tensor,
    ) -> Tensor:
        """Nats by row [B], from cross-entropies and from the bound's integrand."""
        loss, cross_entropy = self.module.config.loss, found.nats.sum(-1)
        if loss == "likelihood":
            return torch.where(t == 0, cross_entropy, diffusion)
        if loss == "half":
            return (cross_entropy + diffusion) / 2
        if loss == "mse_cross_entropy":
            regressed = self.module.network.regression(hidden)
            error = squared_error(picked(vectors.detach(), at), regressed) / vectors.shape[-1]
            return cross_entropy.index_add(0, at // vectors.shape[1], error)
        return cross_entropy

    @torch.no_grad()
    def _first_estimate(
        self, z: Tensor, g: Tensor, known: Tensor, rows: Tensor, at: Tensor
    ) -> Tensor | None:
        """What a first call expects in some rows [N], 0 in the others [B, L, d].

        Args:
            at: the places of these rows' free positions, among N * L.
        """
        if self.module.passes == 1:
            return None
        if not len(rows):
            self._call_as_others(z, g, known)
            return None
        estimate = torch.zeros_like(z)
        z, g, known = (each.index_select(0, rows) for each in (z, g, known))
        hidden = self.module.network.hidden(z, g, known, at=at)
        first = self.module.network.expect(hidden, z, g, known.clamp(min=0), at).mean
        return estimate.index_copy(0, rows, first)

    def _call_as_others(self, z: Tensor, g: Tensor, known: Tensor) -> None:
        """Ranks that divide weights wait for one another wherever one of them calls the network."""
        if self.module.network.is_divided:
            devices = [z.device] if z.device.type == "cuda" else []
            with torch.random.fork_rng(devices):
                self.module.network.hidden(z[:1], g[:1], known[:1])

    def finish_step(self, of_all: Callable[[Tensor], Tensor] = own) -> None:
        """Clear gradients, and let the clock learn where nats were paid."""
        clear_gradients(self.module.parameters())
        self.module.clock.learn(of_all)
