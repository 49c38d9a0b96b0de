"""The gradient of a method's loss, in pieces of a batch, and its norm."""

from typing import Literal, Protocol

import torch
from torch import Tensor, nn


class Method(Protocol):
    """What can be trained."""

    @property
    def module(self) -> nn.Module:
        """The network whose parameters are optimised."""
        ...

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """All randomness of a step for the whole batch x0 [B, L]; each tensor is [B, ...]."""
        ...

    def loss(self, *drawn: Tensor) -> Tensor:
        """Nats, a scalar: the sum over rows of what `draw` returned."""
        ...

    def clear_gradients(self) -> None:
        """Clear the gradients of `module`; their memory may be used again: keep none of them."""
        ...


def accumulate_gradient(
    method: Method,
    drawn: tuple[Tensor, ...],
    pieces: int,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Tensor:
    """Gradient of the mean loss over the whole batch, computed in `pieces`; returns that mean.

    With bfloat16, matrix products are in it; weights, sums of gradients and losses are not.
    """
    num_rows, device = len(drawn[0]), drawn[0].device
    total = torch.zeros((), device=device)
    for piece in zip(*(torch.chunk(tensor, pieces) for tensor in drawn), strict=True):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = method.loss(*piece) / num_rows
        torch.autograd.backward(loss)
        total += loss.detach()
    return total


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients together, a scalar.

    On a CPU by dot products: PyTorch's own norm of 13 million numbers in float32 takes twice as
    long there, and is wrong by 5e-4.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if any(gradient.device.type != "cpu" for gradient in gradients):
        return nn.utils.get_total_norm(gradients, foreach=True)
    flat = [gradient.flatten() for gradient in gradients]
    return torch.stack([torch.dot(gradient, gradient) for gradient in flat]).sum().sqrt()
