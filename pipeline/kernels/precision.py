"""Narrow numbers and wide ones."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "tf32", "bfloat16"]
"""Of matrix products; weights, sums, losses and what is drawn from stay in float32 or wider."""


@contextmanager
def same_bytes(asked: bool, device: torch.device) -> Iterator[None]:
    """Let a GPU compute the same bytes twice, where that is asked for; a CPU always does.

    Forward passes as well as backward: cuDNN's attention, which has no such way back, must not be
    chosen. With warnings in the place of errors attention would stay as it is.
    """
    if not asked or device.type != "cuda":
        yield
        return
    # cuBLAS reads it at its first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def products_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute matrix products in `precision` on `device`."""
    before = torch.get_float32_matmul_precision()
    # This switch alone: torch.compile fails where it meets the newer one (pytorch#166387).
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def widened(x: Tensor) -> Tensor:
    """x in float32 where it is narrower, else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def computes_plainly(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer with this weight keeps nothing of x for a gradient, and casts nothing."""
    casts = x.dtype != weight.dtype or torch.is_autocast_enabled(x.device.type)
    return not (casts or torch.is_grad_enabled())
