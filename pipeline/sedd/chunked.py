"""The head and its loss together, some positions at a time: no [N, V] tensor outlives its chunk."""

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Outputs in a chunk: at most 64 MB of float32, whatever the vocabulary. Larger ones gain nothing.
CHUNK = 2**24
# Rows of a gradient by weights that are widened at a time: few enough to stay in a cache.
WIDENED_AT_ONCE = 4096


class Criterion(Protocol):
    """What outputs cost."""

    def __call__(self, outputs: Tensor, rows: slice) -> Tensor:
        """Nats [n] of the outputs [n, K] of `rows`; outputs become the gradient of their sum."""
        ...


class Nats(NamedTuple):
    """A loss by position, and what it sums to.

    Attributes:
        total: a scalar, to differentiate.
        positions: [N] or [B, L], without a gradient.
    """

    total: Tensor
    positions: Tensor


def chunked_nats(hidden: Tensor, head: nn.Linear, criterion: Criterion) -> Nats:
    """Nats of N positions from what the head takes there, [N, D].

    Equal to criterion(head(hidden)) in value and gradient. The gradient is computed in the same
    pass, when the outputs are at hand: one forward and two backward products a chunk, as with the
    whole, and outputs for `CHUNK // K` positions at a time. Products follow autocast; nats and
    gradients of weights are summed in float32 or wider.
    """
    autocast = torch.is_autocast_enabled(hidden.device.type)
    dtype = torch.get_autocast_dtype(hidden.device.type) if autocast else hidden.dtype
    apply: Any = _ChunkedNats.apply
    total, positions = apply(
        hidden, head.weight, head.bias, criterion, dtype, torch.is_grad_enabled()
    )
    return Nats(total, positions)


class _ChunkedNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        criterion: Criterion,
        dtype: torch.dtype,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        positions = hidden.new_empty(len(hidden), dtype=wide)
        like = (hidden, weight, bias) if with_gradient else ()
        gradients = [torch.zeros_like(part, dtype=wide) for part in like]
        with torch.autocast(hidden.device.type, enabled=False):
            narrow = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
            size = _even(len(hidden), most=max(1, CHUNK // len(weight)))
            # The same memory for every chunk: fresh pages would cost as much as the arithmetic.
            products = _aligned(narrow[0], size, len(weight))
            outputs = products if dtype == wide else _aligned(positions, size, len(weight))
            for first in range(0, len(hidden), size):
                rows = slice(first, min(first + size, len(hidden)))
                chunk = _Chunk(narrow[0][rows], products, outputs)
                positions[rows] = criterion(chunk.outputs(*narrow[1:]), rows)
                if with_gradient:
                    gradients[0][rows] = chunk.add_gradients(narrow[1], *gradients[1:])
        ctx.gradients = [g.to(part.dtype) for g, part in zip(gradients, like, strict=True)]
        ctx.mark_non_differentiable(positions)
        return positions.sum(), positions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [gradient.mul_(by_total) for gradient in ctx.gradients]
        # Scaled in place: a second pass would scale them again.
        del ctx.gradients
        return *gradients, None, None, None


def _even(num: int, most: int) -> int:
    """How many of `num` positions a chunk has: as few chunks as can be, and none of them small."""
    return math.ceil(num / max(1, math.ceil(num / most))) or 1


def _aligned(like: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Memory for [num_rows, num_columns], each row at the start of a cache line.

    On two cores the head's forward product is a fifth faster, with 50,258 columns.
    """
    return like.new_empty(num_rows, math.ceil(num_columns / 64) * 64)[:, :num_columns]


class _Chunk:
    """Some positions, with memory for their outputs as products give them, and as losses take them.

    The two are the same tensor unless products are narrower.
    """

    def __init__(self, hidden: Tensor, products: Tensor, outputs: Tensor) -> None:
        self._hidden = hidden
        self._products, self._outputs = products[: len(hidden)], outputs[: len(hidden)]

    def outputs(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The head's outputs [n, K]; what they become is the gradient that the next call takes."""
        torch.addmm(bias, self._hidden, weight.T, out=self._products)
        return self._outputs.copy_(self._products)

    def add_gradients(self, weight: Tensor, by_weight: Tensor, by_bias: Tensor) -> Tensor:
        """Add the gradients by weight and bias; returns that by the hidden states [n, D]."""
        by_bias += self._outputs.sum(0)
        self._products.copy_(self._outputs)
        if self._products.dtype == by_weight.dtype:
            by_weight.addmm_(self._products.T, self._hidden)
        else:
            for wide, products in zip(
                torch.split(by_weight, WIDENED_AT_ONCE),
                torch.split(self._products, WIDENED_AT_ONCE, dim=1),
                strict=True,
            ):
                wide += (products.T @ self._hidden).to(wide.dtype)
        return self._products @ weight
