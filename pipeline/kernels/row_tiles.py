"""Nats of a head's outputs on a card: large tiles of whole rows, and a fused pass over each.

A launch takes as long there as reading 150 MB, and products whose rows do not start at multiples
of 16 bytes run at a sixth of the speed. So tiles are few, outputs are padded to a whole number of
ALIGNED, and torch.compile makes one function of widening, criterion and rounding.
"""

import functools
import os
import shutil
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from pipeline.kernels.criterion import Cost, Criterion
from pipeline.kernels.tiles import aligned, tile_shape, tiles

Price = Callable[[Tensor, Criterion, tuple[Tensor, ...], torch.dtype, bool], Tensor]


def nats_by_row_tiles(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    cost: Cost,
    dtype: torch.dtype,
    with_gradient: bool,
) -> tuple[Tensor, list[Tensor]]:
    """As `nats_by_cache_tiles`."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    num_outputs, width = len(weight), aligned(len(weight))
    positions = hidden.new_zeros(len(hidden), dtype=wide)
    narrow = hidden.to(dtype)
    # Outputs of the padding are 0, and so they stay as gradients.
    padded_weight, padded_bias = (_padded(each, width, dtype) for each in (weight, bias))
    sums: list[Tensor] = []
    if with_gradient:
        zeros = (torch.zeros_like(each, dtype=wide) for each in (padded_weight, padded_bias))
        sums = [torch.empty_like(hidden, dtype=wide), *zeros]
    height, _ = tile_shape(len(hidden), width, "cuda")
    memory = narrow.new_empty(height, width)
    price = fused() if fuses(hidden.device.type) else priced
    for rows, _ in tiles(len(hidden), width, height, width):
        here = narrow[rows]
        products = torch.addmm(padded_bias, here, padded_weight.T, out=memory[: len(here)])
        outputs, by_position = products[:, :num_outputs], cost.at(rows)
        positions[rows] = price(outputs, cost.criterion, by_position, wide, with_gradient)
        if with_gradient:
            by_hidden, by_weight, by_bias = sums
            by_hidden[rows] = _product(products, padded_weight, wide)
            by_weight += _product(products.T, here, wide)
            by_bias += products.sum(0, dtype=wide)
    # Without padding, in the types of what they are gradients by.
    parts = zip(sums, (hidden, weight, bias), strict=False)
    return positions, [each[: len(part)].to(part.dtype) for each, part in parts]


def priced(
    outputs: Tensor,
    criterion: Criterion,
    by_position: tuple[Tensor, ...],
    wide: torch.dtype,
    with_gradient: bool,
) -> Tensor:
    """Nats [n] of outputs [n, V], which become the gradient of their sum if it is asked for."""
    gradient = outputs.to(wide, copy=not with_gradient)
    nats = criterion(gradient, slice(0, outputs.shape[-1]), *by_position)
    if with_gradient:
        outputs.copy_(gradient)
    return nats


@functools.cache
def fused() -> Price:
    """`priced`, of which torch.compile makes few passes, whatever the number of positions."""
    compiled = torch.compile(priced)

    def price(
        outputs: Tensor,
        criterion: Criterion,
        by_position: tuple[Tensor, ...],
        wide: torch.dtype,
        with_gradient: bool,
    ) -> Tensor:
        # It differs from tile to tile; V does not, and is worth knowing.
        for each in (outputs, *by_position):
            torch._dynamo.maybe_mark_dynamic(each, 0)
        return compiled(outputs, criterion, by_position, wide, with_gradient)

    return price


@functools.cache
def fuses(device: str) -> bool:
    """Whether torch.compile has what it needs for this kind of device: Triton, and what that does.

    Without it `priced` runs as it stands, in several times as many passes.
    """
    compilers = (os.environ.get("CC"), "gcc", "clang", "cc")
    return (
        device == "cuda"
        and find_spec("triton") is not None
        and any(shutil.which(name) for name in compilers if name)
        and Path(sysconfig.get_path("include"), "Python.h").is_file()
    )


def _padded(part: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """The weight [V, D] or bias [V] in dtype, with rows of 0 up to a length."""
    padded = part.new_zeros(length, *part.shape[1:], dtype=dtype)
    padded[: len(part)] = part
    return padded


def _product(a: Tensor, b: Tensor, wide: torch.dtype) -> Tensor:
    """a @ b in a type that may be wider than theirs, in which a card adds up anyway."""
    if a.dtype == wide:
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=wide)
    return (a @ b).to(wide)
