"""The head and its loss together, a tile of outputs at a time: no [N, V] tensor is ever whole."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.kernels.gradient_memory import gradient_memory
from pipeline.kernels.tiles import tile_memory, tile_shape, tiles

# Rows of a gradient by weights that are widened at a time: few enough to stay in a cache.
WIDENED_AT_ONCE = 4096


class Criterion(Protocol):
    """What outputs cost."""

    def __call__(self, outputs: Tensor, rows: slice, columns: slice) -> Tensor:
        """Nats [n] of outputs [n, k], those numbered `columns` at the positions `rows`.

        Outputs become the gradient of their sum.
        """
        ...


class Nats(NamedTuple):
    """A loss by position, and what it sums to.

    Attributes:
        total: a scalar, to differentiate.
        positions: [N] or [B, L], without a gradient.
    """

    total: Tensor
    positions: Tensor


def tiled_nats(
    hidden: Tensor, head: nn.Linear, criterion: Criterion, *, whole_rows: bool = False
) -> Nats:
    """Nats of N positions from what the head takes there, [N, D].

    Equal to criterion(head(hidden)) in value and gradient. The gradient is computed in the same
    pass, when the outputs are at hand: one forward and two backward products a tile, as with the
    whole. Products follow autocast; nats and gradients of weights are summed in float32 or wider.

    Args:
        hidden: [N, D].
        head: D to V outputs.
        criterion: what they cost.
        whole_rows: whether the criterion must see all outputs of a position at once, as a softmax
            must; the nats of one that need not are a sum over outputs.
    """
    autocast = torch.is_autocast_enabled(hidden.device.type)
    dtype = torch.get_autocast_dtype(hidden.device.type) if autocast else hidden.dtype
    apply: Any = _TiledNats.apply
    total, positions = apply(
        hidden, head.weight, head.bias, criterion, whole_rows, dtype, torch.is_grad_enabled()
    )
    return Nats(total, positions)


class _TiledNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        criterion: Criterion,
        whole_rows: bool,
        dtype: torch.dtype,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        positions = hidden.new_zeros(len(hidden), dtype=wide)
        gradients = _Gradients(hidden, weight, bias, wide) if with_gradient else None
        with torch.autocast(hidden.device.type, enabled=False):
            narrow = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
            kind = hidden.device.type
            shape = tile_shape(len(hidden), len(weight), kind, whole_rows=whole_rows)
            # The same memory for every tile: fresh pages would cost as much as the arithmetic.
            products = tile_memory(narrow[0], *shape)
            outputs = products if dtype == wide else tile_memory(positions, *shape)
            for rows, columns in tiles(len(hidden), len(weight), *shape):
                tile = _Tile(*narrow, rows, columns, products, outputs)
                positions[rows] += criterion(tile.outputs(), rows, columns)
                if gradients is not None:
                    tile.add_to(gradients)
        if gradients is not None:
            ctx.gradients = gradients.like(hidden, weight, bias)
        ctx.mark_non_differentiable(positions)
        return positions.sum(), positions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [gradient.mul_(by_total) for gradient in ctx.gradients]
        # Scaled in place: a second pass would scale them again.
        del ctx.gradients
        return *gradients, None, None, None, None


class _Gradients:
    """Sums by hidden states [N, D], weight [V, D] and bias [V]."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self.hidden = torch.zeros_like(hidden, dtype=dtype)
        self.bias = torch.zeros_like(bias, dtype=dtype)
        # Large, and each part of it is first written and then added to: zeros would be one more
        # pass.
        same = weight.dtype == dtype
        self.weight = gradient_memory(weight) if same else torch.empty_like(weight, dtype=dtype)
        if not len(hidden):
            # There is no tile to write it.
            self.weight.zero_()

    def like(self, *parts: Tensor) -> list[Tensor]:
        """The sums, in the types of what they are gradients by."""
        sums = (self.hidden, self.weight, self.bias)
        return [each.to(part.dtype) for each, part in zip(sums, parts, strict=True)]


class _Tile:
    """Some outputs at some positions, with memory for them as products and as losses have them.

    The two are the same tensor unless products are narrower.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: slice,
        columns: slice,
        products: Tensor,
        outputs: Tensor,
    ) -> None:
        self._rows, self._columns = rows, columns
        self._hidden, self._weight, self._bias = hidden[rows], weight[columns], bias[columns]
        self._products = products[: len(self._hidden), : len(self._weight)]
        self._outputs = outputs[: len(self._hidden), : len(self._weight)]

    def outputs(self) -> Tensor:
        """The head's outputs [n, k]; what they become is the gradient that the next call takes."""
        torch.addmm(self._bias, self._hidden, self._weight.T, out=self._products)
        return self._outputs.copy_(self._products)

    def add_to(self, gradients: _Gradients) -> None:
        """Add this tile's gradients."""
        gradients.bias[self._columns] += self._outputs.sum(0)
        self._products.copy_(self._outputs)
        by_hidden, by_weight = gradients.hidden[self._rows], gradients.weight[self._columns]
        # The top tile comes before the others of its columns, to memory that nothing wrote yet.
        is_first = self._rows.start == 0
        if self._products.dtype == by_weight.dtype:
            by_weight.addmm_(self._products.T, self._hidden, beta=0 if is_first else 1)
            by_hidden.addmm_(self._products, self._weight)
            return
        by_hidden += self._products @ self._weight
        for wide, products in zip(
            torch.split(by_weight, WIDENED_AT_ONCE),
            torch.split(self._products, WIDENED_AT_ONCE, dim=1),
            strict=True,
        ):
            product = products.T @ self._hidden
            if is_first:
                wide.copy_(product)
            else:
                wide += product
