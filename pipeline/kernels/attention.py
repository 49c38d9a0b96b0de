"""Attention, by whichever way is the quickest for its length and type."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.kernels.precision import widened

Attention = Literal["sdpa", "flash"]
SHORT = 32
"""Positions up to which a CPU trains faster through plain products: a third at 16, even at 64."""
SHORT_NARROW = 256
"""The same with bfloat16: a twentieth of the fused kernel's time at 16, two thirds at 256.

The price is that scores s are rounded, by up to 2^-9 |s|, and that their softmax is kept.
"""


def attend(query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
    """Attention of all positions to all, [B, H, L, head_dim], by PyTorch or by flash-attn.

    flash-attn is a package of its own, and takes float16 and bfloat16 on CUDA only.
    """
    if attention == "sdpa":
        if torch.is_grad_enabled() and _is_short(key):
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
            # Its kernel computes in float32 and rounds once; autocast would make it keep float32.
            with torch.autocast("cpu", enabled=False):
                weights = scores.softmax(-1)
            return weights @ value
        return F.scaled_dot_product_attention(query, key, value)
    from flash_attn import flash_attn_func

    by_position = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return flash_attn_func(*by_position).transpose(1, 2)


def _is_short(key: Tensor) -> bool:
    """Whether plain products beat the fused kernel."""
    most = SHORT if widened(key) is key else SHORT_NARROW
    return key.device.type == "cpu" and key.shape[-2] <= most
