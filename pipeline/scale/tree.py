"""Sums over the pieces of a step that are the same bytes, however many processes add them up.

Pieces are the leaves of a balanced tree, whose shape depends on their number alone: halves of an
even number are summed by themselves, an odd number from left to right.
"""

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn


def tree(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape, in the order of the tree."""
    half, is_odd = divmod(len(parts), 2)
    if is_odd:
        return reduce(torch.add, parts)
    return tree(parts[:half]) + tree(parts[half:])


class PartialSums:
    """Gradients of parameters, summed in the order of `tree` as pieces come: a binary counter.

    At most log2 of the number of pieces sums are put by beside the gradients themselves.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], num_pieces: int) -> None:
        self._parameters = list(parameters)
        self._leaf = num_pieces // (num_pieces & -num_pieces)
        self._num = 0
        self._held: list[dict[Tensor, Tensor]] = []

    def next_piece(self) -> None:
        """Put by the gradients that there are, as another piece follows."""
        self._num += 1
        leaves, inside = divmod(self._num, self._leaf)
        if inside:  # The next piece is added to them.
            return
        while leaves % 2 == 0:
            self._merge()
            leaves //= 2
        held: dict[Tensor, Tensor] = {}
        for parameter in self._parameters:
            if parameter.grad is not None:
                held[parameter], parameter.grad = parameter.grad, None
        self._held.append(held)

    def finish(self) -> None:
        """Add what was put by to the gradients of the last piece."""
        while self._held:
            self._merge()

    def define_others(self, used: set[Tensor]) -> None:
        """Make 0 the gradients that the last piece will not have, and pieces before it had."""
        for held in self._held:
            for parameter in held.keys() - used:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def add_to(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Add what was put by to gradients of the last piece that stand elsewhere."""
        for held in reversed(self._held):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if parameter in held:
                    gradient += held[parameter]

    def _merge(self) -> None:
        """The last sum put by and the gradients become gradients, in the memory of the older."""
        held = self._held.pop()
        found = [(total, each.grad) for each, total in held.items() if each.grad is not None]
        if found:
            totals, gradients = zip(*found, strict=True)
            torch._foreach_add_(totals, gradients)
        for parameter, total in held.items():
            parameter.grad = total
