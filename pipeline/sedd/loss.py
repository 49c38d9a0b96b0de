"""Training losses: diffusion-weighted denoising score entropy, SEDD eq. 10."""

import torch
import torch.nn.functional as F
from torch import Tensor

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
        weight = dsigma / torch.expm1(sigma)
        nats = F.nll_loss(model.log_p(xt).flatten(0, 1), x0.flatten(), reduction="none")
        nats = torch.where(xt == model.graph.num_states - 1, nats.view_as(x0), 0.0)
        return weight[:, None].to(nats.dtype) * nats
    log_score = model.log_score(xt, sigma.to(model.dtype))
    entropy = model.graph.score_entropy(log_score, x0, xt, sigma.to(log_score.dtype))
    return dsigma[:, None].to(entropy.dtype) * entropy


class ScoreEntropy:
    """SEDD as a method that the training loop can train."""

    def __init__(self, model: SEDD) -> None:
        self.module = model

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Times and noised tokens for a whole batch x0 [B, L]: (x0, xt, t)."""
        t = stratified_times(len(x0), self.module.t_min, generator)
        xt = self.module.graph.sample_transition(x0, self.module.noise.sigma(t), generator)
        return x0, xt, t

    def loss(self, *drawn: Tensor) -> Tensor:
        """Loss [b] in nats a sequence, summed over L; its mean over t estimates the bound."""
        x0, xt, t = drawn
        return score_entropy(self.module, x0, xt, t).sum(-1)
