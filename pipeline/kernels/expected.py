"""A softmax over a vocabulary and the mean row of a table under it, a tile of outputs at a time.

No [N, V] tensor is ever whole, and none is kept: the backward pass computes its outputs again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.kernels.criterion import add_at_, is_in, value_at
from pipeline.kernels.gradient_memory import gradient_memory
from pipeline.kernels.tiles import tile_shape, tiles, whole_lines


class Expected(NamedTuple):
    """What positions expect.

    Attributes:
        mean: of the table's rows [N, M].
        nats: -log probability of each position's id [N].
    """

    mean: Tensor
    nats: Tensor


def expected(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    table: Tensor,
    ids: Tensor,
    evidence: Tensor | None = None,
) -> Expected:
    """The mean of a table [V, M] under a softmax, and -log of it at ids.

    It is that of hidden @ weight.T + bias + evidence @ table.T. Equal to the plain formulation in
    value and gradient. Products follow autocast; sums, the softmax and what is returned are in
    float32 or wider.

    Args:
        hidden: [N, K].
        weight: [V, K].
        bias: [V], or None for 0.
        table: [V, M].
        ids: [N], each below V.
        evidence: [N, M], or None for 0.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if bias is None:
        bias = weight.new_zeros(len(weight))
    apply: Any = _Expected.apply
    return Expected(*apply(hidden, weight, bias, table, evidence, ids, dtype))


class _Expected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        table: Tensor,
        evidence: Tensor | None,
        ids: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            head = _Head(hidden, weight, bias, table, evidence, dtype)
            mean = hidden.new_zeros(len(hidden), table.shape[1], dtype=head.wide)
            at_ids, total = (hidden.new_zeros(len(hidden), dtype=head.wide) for _ in range(2))
            # The largest output so far; all sums are of what outputs are above it.
            top = torch.full_like(total, -torch.inf)

            def add(rows: slice, columns: slice) -> None:
                outputs, here = head.outputs(rows, columns), ids[rows]
                found = value_at(outputs, here, columns)
                at_ids[rows] += torch.where(is_in(here, columns), found, 0.0)
                higher = torch.maximum(top[rows], outputs.amax(-1))
                kept = (top[rows] - higher).exp_()
                top[rows] = higher
                p = outputs.sub_(higher[:, None]).exp_()
                total[rows] = total[rows].mul_(kept).add_(p.sum(-1))
                mean[rows] = mean[rows].mul_(kept[:, None]).add_(head.means(p, columns))

            head.for_each_tile(add)
            mean /= total[:, None]
            log_total = total.log_().add_(top)
        ctx.save_for_backward(hidden, weight, bias, table, evidence, ids, mean, log_total)
        ctx.dtype = dtype
        # What nobody differentiates costs nothing.
        ctx.set_materialize_grads(False)
        return mean, log_total - at_ids

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_mean: Tensor | None, by_nats: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, table, evidence, ids, mean, log_total = ctx.saved_tensors
        parts = hidden, weight, bias, table
        with torch.autocast(mean.device.type, enabled=False):
            head = _Head(*parts, evidence, ctx.dtype)
            sums = [head.zeros(part) for part in parts]
            by_hidden, by_weight, by_bias, by_table = sums
            by_evidence = None if evidence is None else head.zeros(evidence)
            # What every output of a position has in common.
            shift = torch.zeros_like(log_total) if by_nats is None else by_nats
            if by_mean is not None:
                shift = shift - (by_mean * mean).sum(-1)
                by_mean = by_mean.to(ctx.dtype)

            def add(rows: slice, columns: slice) -> None:
                p = head.outputs(rows, columns).sub_(log_total[rows, None]).exp_()
                by_outputs = shift[rows, None]
                if by_mean is not None:
                    by_table[columns] += p.T.to(ctx.dtype) @ by_mean[rows]
                    by_p = by_mean[rows] @ head.table[columns].T
                    by_outputs = by_p.to(head.wide).add_(by_outputs)
                by_outputs = p.mul_(by_outputs)
                if by_nats is not None:
                    add_at_(by_outputs, ids[rows], columns, -by_nats[rows])
                by_bias[columns] += by_outputs.sum(0)
                narrow = by_outputs.to(ctx.dtype)
                by_hidden[rows] += narrow @ head.weight[columns]
                by_weight[columns] += narrow.T @ head.hidden[rows]
                if head.evidence is not None and by_evidence is not None:
                    by_evidence[rows] += narrow @ head.table[columns]
                    by_table[columns] += narrow.T @ head.evidence[rows]

            head.for_each_tile(add)
        gradients = [each.to(part.dtype) for each, part in zip(sums, parts, strict=True)]
        if evidence is not None and by_evidence is not None:
            by_evidence = by_evidence.to(evidence.dtype)
        return *gradients, by_evidence, None, None


class _Head:
    """The maps to outputs, which are wanted a tile at a time."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        table: Tensor,
        evidence: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        self.hidden, self.weight, self.table = (x.to(dtype) for x in (hidden, weight, table))
        self.evidence = None if evidence is None else evidence.to(dtype)
        self.bias = bias.to(self.wide)
        height, width = tile_shape(len(hidden), len(weight), hidden.device.type)
        # Products write rows of whole cache lines at twice the speed.
        self._shape = height, whole_lines(width)

    def for_each_tile(self, add: Callable[[slice, slice], None]) -> None:
        """`add` of the rows and columns of each: what it makes of one is gone before the next."""
        for rows, columns in tiles(len(self.hidden), len(self.weight), *self._shape):
            add(rows, columns)

    def outputs(self, rows: slice, columns: slice) -> Tensor:
        """Outputs [n, k], in memory of their own."""
        outputs = self.hidden[rows] @ self.weight[columns].T
        if self.evidence is not None:
            outputs = outputs.addmm_(self.evidence[rows], self.table[columns].T)
        return outputs.to(self.wide).add_(self.bias[columns])

    def means(self, p: Tensor, columns: slice) -> Tensor:
        """Sums [n, M] of the table's rows by their weights [n, k]."""
        return p.to(self.table.dtype) @ self.table[columns]

    def zeros(self, part: Tensor) -> Tensor:
        """For sums of gradients by a part, which the last step may have left memory for."""
        if part.dtype == self.wide:
            return gradient_memory(part).zero_()
        return torch.zeros_like(part, dtype=self.wide)
