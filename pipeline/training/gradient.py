"""The gradient of a loss, in pieces of a batch, and its norm."""

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from pipeline.kernels.precision import Precision, products_in
from pipeline.scale.tree import PartialSums, tree
from pipeline.scale.world import whole

if TYPE_CHECKING:
    from pipeline.methods.protocol import Objective
    from pipeline.scale.ddp import Ranks
    from pipeline.scale.fsdp import Shards

Reduction = Literal["fixed", "fast"]
"""How the pieces of a step are summed: in the order of `scale.tree`, or as they come."""
AT_ONCE = 2**20
"""Numbers that one product sums up: more of them lose digits, on some processors."""


def accumulate_gradient(
    objective: "Objective",
    pieces: Sequence[tuple[Tensor, ...]],
    precision: Precision = "float32",
    *,
    reduction: Reduction = "fixed",
    seeds: Sequence[int] | None = None,
    ranks: "Ranks | Shards | None" = None,
) -> Tensor:
    """Gradient of the mean loss over a batch, of which each piece holds some rows; that mean.

    Weights, sums of gradients and losses are in float32 whatever the precision of products.

    Args:
        seeds: for each piece, of what its loss draws (dropout).
        ranks: the objective's loss, where the batch is all of their pieces together.
    """
    num_rows, device = sum(len(piece[0]) for piece in pieces), pieces[0][0].device
    sums = PartialSums(objective.module.parameters(), len(pieces))
    loss_of = objective.loss
    if ranks is not None:
        loss_of, num_rows = ranks.loss, num_rows * ranks.size
    losses: list[Tensor] = []
    for number, piece in enumerate(pieces):
        if number and reduction == "fixed":
            sums.next_piece()
        if seeds is not None:
            torch.manual_seed(seeds[number])
        if ranks is not None:
            ranks.before(sums, is_last=number == len(pieces) - 1)
        with products_in(precision, device):
            loss = loss_of(*piece) / num_rows
        with products_in("tf32" if precision == "tf32" else "float32", device):
            torch.autograd.backward(loss)
        losses.append(loss.detach())
    if ranks is not None:
        return ranks.finish(sums, losses)
    sums.finish()
    return tree(losses) if reduction == "fixed" else reduce(torch.add, losses)


def pieces_of(drawn: tuple[Tensor, ...], num: int) -> list[tuple[Tensor, ...]]:
    """What `draw` returned for a batch, each [B, ...], in `num` pieces of rows."""
    return list(zip(*(torch.chunk(tensor, num) for tensor in drawn), strict=True))


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients together, a scalar.

    On a CPU by dot products: PyTorch's own norm of 13 million numbers in float32 takes twice as
    long there, and is wrong by 5e-4.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if any(gradient.device.type != "cpu" for gradient in gradients):
        return whole(nn.utils.get_total_norm(gradients, foreach=True))
    pieces = (piece for each in gradients for piece in torch.split(whole(each).flatten(), AT_ONCE))
    return torch.stack([torch.dot(piece, piece) for piece in pieces]).sum().sqrt()
