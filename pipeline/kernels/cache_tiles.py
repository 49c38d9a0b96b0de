"""Nats of a head's outputs on a CPU: tiles that a cache holds, one operation after another."""

import torch
from torch import Tensor

from pipeline.kernels.criterion import Cost
from pipeline.kernels.gradient_memory import gradient_memory
from pipeline.kernels.tiles import tile_memory, tile_shape, tiles

# Rows of a gradient by weights that are widened at a time: few enough to stay in a cache.
WIDENED_AT_ONCE = 4096


def nats_by_cache_tiles(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    cost: Cost,
    dtype: torch.dtype,
    with_gradient: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Nats [N], and the gradients of their sum by hidden, weight and bias, or none.

    Args:
        hidden: [N, D].
        weight: [V, D].
        bias: [V].
        cost: of outputs.
        dtype: of products.
        with_gradient: whether gradients are asked for.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    positions = hidden.new_zeros(len(hidden), dtype=wide)
    gradients = _Gradients(hidden, weight, bias, wide) if with_gradient else None
    narrow = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
    shape = tile_shape(len(hidden), len(weight), "cpu", whole_rows=cost.whole_rows)
    # The same memory for every tile: fresh pages would cost as much as the arithmetic.
    products = tile_memory(narrow[0], *shape)
    outputs = products if dtype == wide else tile_memory(positions, *shape)
    for rows, columns in tiles(len(hidden), len(weight), *shape):
        tile = _Tile(*narrow, rows, columns, products, outputs)
        positions[rows] += cost.criterion(tile.outputs(), columns, *cost.at(rows))
        if gradients is not None:
            tile.add_to(gradients)
    return positions, [] if gradients is None else gradients.like(hidden, weight, bias)


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
