"""Training losses: diffusion-weighted denoising score entropy, SEDD eq. 10."""

import torch
from torch import Tensor, nn

from pipeline.kernels.criterion import add_at_, value_at
from pipeline.kernels.gradient_memory import clear_gradients
from pipeline.kernels.tiled import Nats, tiled_nats
from pipeline.methods.estimates import stratified_times
from pipeline.methods.sedd import uniform_x0
from pipeline.methods.sedd.graph import log_expm1, moved_by_chance, sample_transition
from pipeline.methods.sedd.model import SEDD
from pipeline.network.layers import places

GROUP = 64
"""The head is asked at a multiple of this many positions where products are compiled for each."""
NUM_GROUPS = 32
"""How many numbers of positions a card meets at most: it keeps memory of each size."""


def score_entropy(model: SEDD, x0: Tensor, xt: Tensor, t: Tensor) -> Nats:
    """Diffusion-weighted score entropy.

    With a conditional score of masks it is a cross-entropy at masked positions, weighted
    dsigma / (e^sigma - 1) (arXiv 2406.03736, eq. 3.5): the same number, by fewer operations.

    Args:
        model: the score model.
        x0: clean tokens [B, L], int64, no mask.
        xt: noised tokens [B, L], int64.
        t: times [B] in (0, 1].
    Returns:
        nats a unit of time, by position [B, L].
    Raises:
        ValueError: t outside (0, 1].
    """
    if t.numel() and not bool(((t > 0) & (t <= 1)).all()):
        raise ValueError("t must lie in (0, 1]")
    if not model.timeless:
        return _weighted_score_entropy(model, x0, xt, t)
    sigma = model.noise.sigma(t)
    weight = model.noise.dsigma(t) * torch.exp(-log_expm1(sigma))
    return _weighted_cross_entropy(model, x0, xt, weight, None)


def masked_cross_entropy(model: SEDD, x0: Tensor, xt: Tensor, at: Tensor | None = None) -> Nats:
    """Integral over the move chance m in (0, 1] of the conditional loss, from one draw of xt.

    With m uniform and L positions masked by m, the weight 1 / m of the cross-entropy (arXiv
    2406.03736, eq. 3.5) may be replaced by its mean given k masks, (L + 1) / k: xt depends on m
    through k alone. The mean over draws stays the same and its variance falls, most of all where
    a small m would weigh a rare mask a hundredfold.

    Args:
        model: a timeless one.
        x0: clean tokens [B, L], int64, no mask.
        xt: noised tokens [B, L], each position a mask with the row's own chance m ~ U(0, 1].
        at: places of the masks [N], where they are known, and perhaps others.
    Returns:
        nats by position [B, L].
    """
    num_masks = (xt == model.graph.num_states - 1).sum(-1).clamp(min=1)
    return _weighted_cross_entropy(model, x0, xt, (x0.shape[1] + 1) / num_masks.double(), at)


def _weighted_cross_entropy(
    model: SEDD, x0: Tensor, xt: Tensor, weight: Tensor, at: Tensor | None
) -> Nats:
    """Cross-entropy of x0 [B, L] at the masks of xt [B, L], each row's times weight [B]."""
    is_mask = xt == model.graph.num_states - 1
    at = _in_groups(is_mask) if at is None else at
    here = places(at)
    by_position = _at(here, x0, (weight[:, None] * is_mask).to(model.dtype))
    hidden = model.network.hidden(xt, at=at)
    nats = tiled_nats(hidden, model.network.head, cross_entropy_, by_position, whole_rows=True)
    return _placed(nats, here, x0)


def cross_entropy_(outputs: Tensor, columns: slice, target: Tensor, scale: Tensor) -> Tensor:
    """Scale * cross-entropy of a target, all [N]; outputs [N, V] become its gradient.

    In nats. The sum keeps its dimension so that torch.compile knows it for a softmax's.
    """
    outputs -= outputs.amax(-1, keepdim=True)
    at_target = value_at(outputs, target, columns)
    total = outputs.exp_().sum(-1, keepdim=True)
    outputs *= scale[:, None] / total
    add_at_(outputs, target, columns, -scale)
    return scale * (total.squeeze(-1).log() - at_target)


def _weighted_score_entropy(
    model: SEDD, x0: Tensor, xt: Tensor, t: Tensor, at: Tensor | None = None
) -> Nats:
    """Score entropy times dsigma, from the output of a network that takes sigma."""
    sigma, dsigma = model.noise.sigma(t), model.noise.dsigma(t)
    has_loss = _has_loss(model, xt)
    at = _in_groups(has_loss) if at is None else at
    here = places(at)
    by_row = sigma[:, None], dsigma[:, None] * has_loss, model.log_shift(sigma)[:, None]
    real = (each.expand_as(xt).to(model.dtype) for each in by_row)
    hidden = model.network.hidden(xt, sigma.to(model.dtype), at)
    by_x0, by_position = model.conditional, _at(here, x0, xt, *real)
    criterion = uniform_x0.score_entropy_ if by_x0 else model.graph.score_entropy_
    nats = tiled_nats(hidden, model.network.head, criterion, by_position, whole_rows=by_x0)
    return _placed(nats, here, x0)


def _has_loss(model: SEDD, xt: Tensor) -> Tensor:
    """Where the loss need not be 0 [B, L]: where absorb left a token, it is, whatever the score."""
    mask_id = model.graph.mask_id
    return torch.ones_like(xt, dtype=torch.bool) if mask_id is None else xt == mask_id


def _at(here: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Values [B, L] at some places: each [N]."""
    return tuple(each.flatten().index_select(0, here) for each in values)


def _in_groups(at: Tensor) -> Tensor:
    """`at` [B, L], and as many positions more as make up a whole number of groups.

    bfloat16 products on a CPU are compiled anew for each number of positions, which takes longer
    than they do. Elsewhere `at` as it is.
    """
    if at.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return at
    others = (~at).flatten().nonzero().squeeze(-1)
    more = at.flatten().index_fill(0, others[: -int(at.sum()) % GROUP], True)
    return more.view(at.shape)


def _placed(nats: Nats, here: Tensor, like: Tensor) -> Nats:
    """Nats of positions at some places, as [B, L] with 0 elsewhere."""
    positions = nats.positions.new_zeros(like.numel()).index_copy_(0, here, nats.positions)
    return Nats(nats.total, positions.view(like.shape))


def apart(model: SEDD, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Labels [B, K] and tokens [B, L] of rows [B, K + L]."""
    labels, x0 = rows.tensor_split([len(model.labels)], -1)
    return labels, x0


def left_out(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Rows of labels [B, K], some of them 0, not said.

    A `share` of the rows says nothing, so that one network is the unconditional one too; in the
    others each label is left out with the same chance, so that any may be asked for alone.
    """
    u = torch.rand(len(labels), 1 + labels.shape[1], generator=generator, device=labels.device)
    out = u < share
    return labels.masked_fill(out[:, :1] | out[:, 1:], 0)


class ScoreEntropy:
    """SEDD as a method that the training loop can train.

    A timeless network takes the move chance as its clock: its loss integrates to the same number
    under every schedule, and then reaches from no masks to all of them.
    """

    def __init__(self, model: SEDD) -> None:
        self.module = model

    def divided(self) -> list[nn.Module]:
        """See Objective."""
        return self.module.network.divided()

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Times and noised tokens for a whole batch x0 [B, L]: (x0, xt, t).

        Of a model with K labels rows [B, K + L] have these first, and (x0, xt, t, labels) holds
        what of them is said.
        """
        if not self.module.labels:
            return self._noised(x0, generator)
        labels, x0 = apart(self.module, x0)
        drawn = self._noised(x0, generator)
        return *drawn, left_out(labels, self.module.config.label_dropout, generator)

    def _noised(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        t = stratified_times(len(x0), self.module.t_min, generator)
        if self.module.timeless:
            return x0, moved_by_chance(self.module.graph, x0, t, generator), t
        xt = sample_transition(self.module.graph, x0, self.module.noise.sigma(t), generator)
        return x0, xt, t

    def located(self, *drawn: Tensor) -> tuple[Tensor, ...]:
        """With the places [N] that have a loss, and others up to one of few numbers N."""
        has_loss = _has_loss(self.module, drawn[1]).flatten()
        group = max(GROUP, has_loss.numel() // NUM_GROUPS)
        others = (~has_loss).nonzero().squeeze(-1)
        has_loss[others[: -int(has_loss.sum()) % group]] = True
        return *drawn, places(has_loss)

    def loss(self, *drawn: Tensor) -> Tensor:
        """Nats, a scalar: the sum over the rows of what `draw` returned, and over L."""
        x0, xt, t, *others = drawn
        labels = others.pop(0) if self.module.labels else None
        at = others[0] if others else None
        with self.module.network.labelled(labels):
            if self.module.timeless:
                return masked_cross_entropy(self.module, x0, xt, at).total
            return _weighted_score_entropy(self.module, x0, xt, t, at).total

    def finish_step(self, of_all: object = None) -> None:
        """See Objective; the gradients of embedding and head leave their memory to the next."""
        clear_gradients(self.module.parameters())
