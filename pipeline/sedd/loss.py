"""Training losses: diffusion-weighted denoising score entropy, SEDD eq. 10."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.sedd.graph import log_expm1
from pipeline.sedd.model import SEDD


def stratified_times(num: int, t_min: float, generator: torch.Generator) -> Tensor:
    """`num` times [num] in (t_min, 1], one in each of `num` equal intervals, in float64.

    One uniform shift serves all: t_i = t_min + (1 - t_min) ((u + i / num) mod 1).
    """
    u = torch.rand((), dtype=torch.float64, generator=generator, device=generator.device)
    grid = torch.arange(num, dtype=torch.float64, device=generator.device) / num
    return t_min + (1 - t_min) * (1 - (u + grid) % 1)


def score_entropy(model: SEDD, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """Diffusion-weighted score entropy of each position.

    With the conditional parameterisation it is a cross-entropy at masked positions, weighted
    dsigma / (e^sigma - 1) (arXiv 2406.03736, eq. 3.5): the same number, by fewer operations.

    Args:
        model: the score model.
        x0: clean tokens [B, L], int64, no mask.
        xt: noised tokens [B, L], int64.
        t: times [B] in (0, 1].
    Returns:
        loss [B, L], nats a position and unit of time.
    Raises:
        ValueError: t outside (0, 1].
    """
    if t.numel() and not bool(((t > 0) & (t <= 1)).all()):
        raise ValueError("t must lie in (0, 1]")
    sigma, dsigma = model.noise.sigma(t), model.noise.dsigma(t)
    if model.conditional:
        weight = dsigma * torch.exp(-log_expm1(sigma))
        nats = F.nll_loss(model.log_p(xt).flatten(0, 1), x0.flatten(), reduction="none")
        nats = torch.where(xt == model.graph.num_states - 1, nats.view_as(x0), 0.0)
        return weight[:, None].to(nats.dtype) * nats
    log_score = model.log_score(xt, sigma.to(model.dtype))
    entropy = model.graph.score_entropy(log_score, x0, xt, sigma.to(log_score.dtype))
    return dsigma[:, None].to(entropy.dtype) * entropy


def masked_cross_entropy(model: SEDD, x0: Tensor, xt: Tensor) -> Tensor:
    """Integral over the move chance m in (0, 1] of the conditional loss, from one draw of xt.

    With m uniform and L positions masked by m, the weight 1 / m of the cross-entropy (arXiv
    2406.03736, eq. 3.5) may be replaced by its mean given k masks, (L + 1) / k: xt depends on m
    through k alone. The mean over draws stays the same and its variance falls, most of all where
    a small m would weigh a rare mask a hundredfold.

    Args:
        model: a model with the conditional parameterisation.
        x0: clean tokens [B, L], int64, no mask.
        xt: noised tokens [B, L], each position a mask with the row's own chance m ~ U(0, 1].
    Returns:
        loss [B], nats a sequence.
    """
    is_mask = xt == model.graph.num_states - 1
    nats = F.nll_loss(model.log_p(xt).flatten(0, 1), x0.flatten(), reduction="none").view_as(x0)
    num_masks = is_mask.sum(-1).clamp(min=1).to(nats.dtype)
    return (x0.shape[1] + 1) / num_masks * torch.where(is_mask, nats, 0.0).sum(-1)


def mask_by_chance(
    model: SEDD, x0: Tensor, move_chance: Tensor, generator: torch.Generator
) -> Tensor:
    """Noised tokens [B, L]: each position of x0 [B, L] a mask with its row's move chance [B]."""
    u = torch.rand(x0.shape, dtype=torch.float64, device=x0.device, generator=generator)
    return torch.where(u < move_chance[:, None], model.graph.num_states - 1, x0)


class ScoreEntropy:
    """SEDD as a method that the training loop can train.

    The conditional parameterisation takes the move chance as its clock: its loss integrates to
    the same number under every schedule, and then reaches from no masks to all of them.
    """

    def __init__(self, model: SEDD) -> None:
        self.module = model

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Times and noised tokens for a whole batch x0 [B, L]: (x0, xt, t)."""
        t = stratified_times(len(x0), self.module.t_min, generator)
        if self.module.conditional:
            return x0, mask_by_chance(self.module, x0, t, generator), t
        xt = self.module.graph.sample_transition(x0, self.module.noise.sigma(t), generator)
        return x0, xt, t

    def loss(self, *drawn: Tensor) -> Tensor:
        """Loss [b] in nats a sequence, summed over L; its mean over t estimates the bound."""
        x0, xt, t = drawn
        if self.module.conditional:
            return masked_cross_entropy(self.module, x0, xt)
        return score_entropy(self.module, x0, xt, t).sum(-1)
