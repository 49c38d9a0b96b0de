"""Narrow numbers and wide ones."""

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """x in float32 where it is narrower, else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def computes_plainly(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer with this weight keeps nothing of x for a gradient, and casts nothing."""
    casts = x.dtype != weight.dtype or torch.is_autocast_enabled(x.device.type)
    return not (casts or torch.is_grad_enabled())
