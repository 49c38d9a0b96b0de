"""The perceptron of a block, and its GELU by the tanh formula."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.kernels.precision import computes_plainly, widened

HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Not every build of PyTorch comes with it."""
GROUP = 2**15
"""oneDNN gets x in multiples of about so many numbers, and not less: it compiles a kernel for each
number of positions, and keeps it, half a millisecond and half a megabyte.
"""
GELU_SCALE = 2 * math.sqrt(2 / math.pi)
GELU_CUBE = 0.044715 * GELU_SCALE


class TanhGELU(nn.Module):
    """GELU by its tanh formula, written x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).

    On a CPU the sigmoid takes less than half the time of the tanh.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or widened(x) is not x:
            return F.gelu(x, approximate="tanh")
        if torch.is_grad_enabled():
            apply: Any = _SigmoidGELU.apply
            return apply(x)
        return _gelu_gate(x, torch.tensor(GELU_SCALE, dtype=x.dtype)).mul_(x)


def _gelu_gate(x: Tensor, scale: Tensor) -> Tensor:
    """What GELU multiplies x by; `scale` is GELU_SCALE."""
    return torch.addcmul(scale, x, x, value=GELU_CUBE).mul_(x).sigmoid_()


class _SigmoidGELU(torch.autograd.Function):
    """Keeps its derivative in place of x: as much memory, and one pass backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scale = torch.tensor(GELU_SCALE, dtype=x.dtype)
        gate = _gelu_gate(x, scale)
        derivative = torch.addcmul(scale, x, x, value=3 * GELU_CUBE).mul_(x).mul_(gate)
        derivative.addcmul_(derivative, gate, value=-1).add_(gate)
        ctx.save_for_backward(derivative)
        return gate.mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_output: Tensor) -> Tensor:
        (derivative,) = ctx.saved_tensors
        return by_output * derivative


class Perceptron(nn.Sequential):
    """A linear map to four times the width, GELU, and a linear map back."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), TanhGELU(), nn.Linear(4 * width, width))

    @property
    def down(self) -> nn.Linear:
        """The map back, from what `inner` gives."""
        down: Any = self[2]
        return down

    def inner(self, x: Tensor) -> Tensor:
        """What the map back takes: x [B, L, D] to [B, L, 4 D], or [N, 1, D] to [N, 1, 4 D]."""
        up: Any = self[0]
        if _is_fused(x, up.weight):
            return _linear_gelu(x, up)
        return self[1](up(x))


def _is_fused(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes a linear map of x [B, L, D] and its GELU at once."""
    takes_it = HAS_ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32
    return takes_it and x.numel() >= GROUP and computes_plainly(x, weight)


def _linear_gelu(x: Tensor, linear: nn.Linear) -> Tensor:
    """GELU of linear(x), which has no pass of its own: Inductor's kernel for frozen weights."""
    positions = x.flatten(0, 1)
    num, group = len(positions), max(1, GROUP // x.shape[-1])
    if num % group:
        positions = F.pad(positions, (0, 0, 0, -num % group))
    kernel = torch.ops.mkldnn._linear_pointwise
    inner: Tensor = kernel(positions, linear.weight, linear.bias, "gelu", [], "tanh")
    return inner[:num].view(*x.shape[:-1], -1)
