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
    sums = _sums(hidden, weight, bias, wide) if with_gradient else []
    narrow_hidden, narrow_weight, narrow_bias = (each.to(dtype) for each in (hidden, weight, bias))
    shape = tile_shape(len(hidden), len(weight), "cpu", whole_rows=cost.whole_rows)
    # The same memory for every tile: fresh pages would cost as much as the arithmetic. Outputs are
    # the products themselves unless these are narrower.
    products = tile_memory(narrow_hidden, *shape)
    outputs = products if dtype == wide else tile_memory(positions, *shape)
    for rows, columns in tiles(len(hidden), len(weight), *shape):
        x, w = narrow_hidden[rows], narrow_weight[columns]
        product, output = (memory[: len(x), : len(w)] for memory in (products, outputs))
        torch.addmm(narrow_bias[columns], x, w.T, out=product)
        positions[rows] += cost.criterion(output.copy_(product), columns, *cost.at(rows))
        if with_gradient:
            by_hidden, by_weight, by_bias = sums
            by_bias[columns] += output.sum(0)
            product.copy_(output)
            # The top tile comes before the others of its columns, to memory that nothing wrote yet.
            is_first = rows.start == 0
            _add_products(by_hidden[rows], by_weight[columns], product, x, w, is_first=is_first)
    parts = zip(sums, (hidden, weight, bias), strict=False)
    return positions, [each.to(part.dtype) for each, part in parts]


def _sums(hidden: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """For gradients by hidden states [N, D], weight [V, D] and bias [V]."""
    # Large, and each part of it is first written and then added to: zeros would be one more pass.
    same = weight.dtype == dtype
    by_weight = gradient_memory(weight) if same else torch.empty_like(weight, dtype=dtype)
    if not len(hidden):
        # There is no tile to write it.
        by_weight.zero_()
    return [torch.zeros_like(hidden, dtype=dtype), by_weight, torch.zeros_like(bias, dtype=dtype)]


def _add_products(
    by_hidden: Tensor,
    by_weight: Tensor,
    by_output: Tensor,
    hidden: Tensor,
    weight: Tensor,
    *,
    is_first: bool,
) -> None:
    """Add a tile's gradients by hidden states [n, D] and weight [k, D], from those by output."""
    if by_output.dtype == by_weight.dtype:
        by_weight.addmm_(by_output.T, hidden, beta=0 if is_first else 1)
        by_hidden.addmm_(by_output, weight)
        return
    by_hidden += by_output @ weight
    for wide, narrow in zip(
        torch.split(by_weight, WIDENED_AT_ONCE),
        torch.split(by_output, WIDENED_AT_ONCE, dim=1),
        strict=True,
    ):
        product = narrow.T @ hidden
        if is_first:
            wide.copy_(product)
        else:
            wide += product
