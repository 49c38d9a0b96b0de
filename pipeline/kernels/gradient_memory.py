"""Memory of gradients, which one training step leaves to the next.

The C library keeps no freed tensor of more than 32 MB: its memory would be taken anew, page by
page, and at V = 50,257 that is a tenth of a training step on two cores. What is left stays through
evaluations in between, until it is freed or its weight is.
"""

from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

# Of each weight that asked for memory; None where there is none to give.
_left: MutableMapping[Tensor, Tensor | None] = WeakTensorKeyDictionary()


def gradient_memory(weight: Tensor) -> Tensor:
    """Memory for the gradient by `weight`, of any content: what the last step left, else new.

    It is the caller's alone. On a GPU it is always new, since PyTorch keeps freed memory there.
    """
    left = _left.pop(weight, None)
    if weight.device.type == "cpu":
        _left[weight] = None
    # The weight may have been cast or moved since.
    if left is None or (left.dtype, left.device) != (weight.dtype, weight.device):
        return torch.empty_like(weight)
    return left


def clear_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """As `zero_grad`, but memory that was asked for is left to the next step.

    Nothing else may hold these gradients: they are written over.
    """
    for parameter in parameters:
        if parameter in _left:
            _left[parameter] = parameter.grad
        parameter.grad = None


def free_gradient_memory() -> None:
    """Give back what the last step left."""
    _left.clear()


def looked_up_from(weight: Tensor, ids: Tensor) -> Tensor:
    """Rows [..., D] of weight [V, D] that ids [...] name; the gradient uses such memory."""
    if torch.is_grad_enabled() and ids.device.type == "cpu":
        apply: Any = _LookUp.apply
        return apply(weight, ids)
    return F.embedding(ids, weight)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        # Whose gradient it is; what it holds does not matter, and may change before.
        ctx.weight = weight
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors
        by_weight = gradient_memory(ctx.weight).zero_()
        by_row = by_output.reshape(-1, by_output.shape[-1])
        return by_weight.index_add_(0, ids.flatten(), by_row), None
