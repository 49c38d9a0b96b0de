"""A softmax over a vocabulary and the mean row of a table under it, some positions at a time.

No [N, V] tensor is ever whole, and none is kept: the backward pass computes its outputs again.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.kernels.tiles import tile_shape, tiles


class Expected(NamedTuple):
    """What positions expect.

    Attributes:
        mean: of the table's rows [N, M].
        nats: -log probability of each position's id [N].
    """

    mean: Tensor
    nats: Tensor


def expected(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor, ids: Tensor
) -> Expected:
    """The mean of a table [V, M] under softmax(hidden @ weight.T + bias), and -log of it at ids.

    Equal to the plain formulation in value and gradient. Products follow autocast; sums, the
    softmax and what is returned are in float32 or wider.

    Args:
        hidden: [N, K].
        weight: [V, K].
        bias: [V], or None for 0.
        table: [V, M].
        ids: [N], each below V.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if bias is None:
        bias = weight.new_zeros(len(weight))
    apply: Any = _Expected.apply
    return Expected(*apply(hidden, weight, bias, table, ids, dtype))


class _Expected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        table: Tensor,
        ids: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            head = _Head(hidden, weight, bias, dtype)
            mean = hidden.new_empty(len(hidden), table.shape[1], dtype=head.wide)
            log_total, nats = (hidden.new_empty(len(hidden), dtype=head.wide) for _ in range(2))
            narrow = table.to(dtype)
            for rows in head.rows():
                outputs = head.outputs(rows)
                log_total[rows] = outputs.logsumexp(-1)
                at_ids = outputs.gather(-1, ids[rows, None]).squeeze(-1)
                nats[rows] = log_total[rows] - at_ids
                p = outputs.sub_(log_total[rows, None]).exp_()
                mean[rows] = (p.to(dtype) @ narrow).to(head.wide)
        ctx.save_for_backward(hidden, weight, bias, table, ids, mean, log_total)
        ctx.dtype = dtype
        # What nobody differentiates costs nothing.
        ctx.set_materialize_grads(False)
        return mean, nats

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_mean: Tensor | None, by_nats: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, table, ids, mean, log_total = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            head = _Head(hidden, weight, bias, ctx.dtype)
            sums = [torch.zeros_like(x, dtype=head.wide) for x in (hidden, weight, bias, table)]
            by_hidden, by_weight, by_bias, by_table = sums
            narrow = table.to(ctx.dtype)
            # What every output of a position has in common.
            shift = torch.zeros_like(log_total) if by_nats is None else by_nats
            if by_mean is not None:
                shift = shift - (by_mean * mean).sum(-1)
                narrow_by_mean = by_mean.to(ctx.dtype)
            for rows in head.rows():
                p = head.outputs(rows).sub_(log_total[rows, None]).exp_()
                by_outputs = shift[rows, None]
                if by_mean is not None:
                    by_table += p.T.to(ctx.dtype) @ narrow_by_mean[rows]
                    by_outputs = (narrow_by_mean[rows] @ narrow.T).to(head.wide).add_(by_outputs)
                by_outputs = p.mul_(by_outputs)
                if by_nats is not None:
                    by_outputs.scatter_add_(-1, ids[rows, None], -by_nats[rows, None])
                by_bias += by_outputs.sum(0)
                narrow_by_outputs = by_outputs.to(ctx.dtype)
                by_hidden[rows] = (narrow_by_outputs @ head.weight).to(head.wide)
                by_weight += narrow_by_outputs.T @ head.hidden[rows]
        parts = zip(sums, (hidden, weight, bias, table), strict=True)
        return *(each.to(part.dtype) for each, part in parts), None, None


class _Head:
    """A linear map whose outputs are wanted for some positions at a time."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        self.hidden, self.weight, self.bias = hidden.to(dtype), weight.to(dtype), bias
        height, _ = tile_shape(len(hidden), len(weight), hidden.device.type, whole_rows=True)
        self._tiles = tiles(len(hidden), len(weight), height, len(weight))

    def rows(self) -> list[slice]:
        """Positions of each tile."""
        return [rows for rows, _ in self._tiles]

    def outputs(self, rows: slice) -> Tensor:
        """Outputs [n, V] of some positions, in memory of their own."""
        return (self.hidden[rows] @ self.weight.T).to(self.wide) + self.bias
