"""The head and its loss together, a tile of outputs at a time: no [N, V] tensor is ever whole."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.kernels.cache_tiles import nats_by_cache_tiles
from pipeline.kernels.criterion import Cost, Criterion
from pipeline.kernels.row_tiles import nats_by_row_tiles

WAYS = {"cpu": nats_by_cache_tiles, "cuda": nats_by_row_tiles}
"""How it is done, by kind of device."""


class Nats(NamedTuple):
    """A loss by position, and what it sums to.

    Attributes:
        total: a scalar, to differentiate.
        positions: [N] or [B, L], without a gradient.
    """

    total: Tensor
    positions: Tensor


def tiled_nats(
    hidden: Tensor,
    head: nn.Linear,
    criterion: Criterion,
    by_position: tuple[Tensor, ...] = (),
    *,
    whole_rows: bool = False,
) -> Nats:
    """Nats of N positions from what the head takes there, [N, D].

    Equal to criterion(head(hidden), ...) in value and gradient. The gradient is computed in the
    same pass, when the outputs are at hand: one forward and two backward products a tile, as with
    the whole. Products follow autocast; nats and gradients of weights are summed in float32 or
    wider.

    Args:
        hidden: [N, D].
        head: D to V outputs.
        criterion: what they cost.
        by_position: what it takes beside them, tensors [N]; real ones as wide as outputs.
        whole_rows: whether the criterion must see all outputs of a position at once, as a softmax
            must; the nats of one that need not are a sum over outputs.
    """
    autocast = torch.is_autocast_enabled(hidden.device.type)
    dtype = torch.get_autocast_dtype(hidden.device.type) if autocast else hidden.dtype
    cost = Cost(criterion, by_position, whole_rows)
    apply: Any = _TiledNats.apply
    total, positions = apply(hidden, head.weight, head.bias, cost, dtype, torch.is_grad_enabled())
    return Nats(total, positions)


class _TiledNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        cost: Cost,
        dtype: torch.dtype,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        with torch.autocast(kind, enabled=False):
            positions, ctx.gradients = WAYS[kind](hidden, weight, bias, cost, dtype, with_gradient)
        ctx.mark_non_differentiable(positions)
        return positions.sum(), positions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [gradient.mul_(by_total) for gradient in ctx.gradients]
        # Scaled in place: a second pass would scale them again.
        del ctx.gradients
        return *gradients, None, None, None
