"""Gradients summed across ranks by DistributedDataParallel, in an order of our own."""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from pipeline.scale.tree import PartialSums, tree


class _Loss(nn.Module):
    """DDP acts where a module is called, and a loss is more than its network."""

    def __init__(self, module: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module, self._loss = module, loss

    def forward(self, *drawn: Tensor) -> Tensor:
        return self._loss(*drawn)


class Ranks:
    """A loss whose gradients are summed over ranks in the backward pass of their last pieces."""

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[..., Tensor],
        *,
        size: int,
        num_pieces: int,
        in_order: bool,
    ) -> None:
        """Args:
        num_pieces: of each rank, a step.
        in_order: sum as `tree` does, not as a library's ring would.
        """
        self.size, self._in_order = size, in_order
        self._sums: PartialSums | None = None
        # Not all parameters need have a gradient in each piece. And buckets that are laid out anew
        # after the first step, as without this, would change the order in which a ring adds: a
        # resumed run would not go on as the one that was interrupted.
        self._loss = DistributedDataParallel(
            _Loss(module, loss),
            forward_sync_buffers=False,
            find_unused_parameters=True,
            # Spares two copies; what is put by of earlier pieces would be written over.
            gradient_as_bucket_view=num_pieces == 1,
        )
        self._loss.register_comm_hook(self, _in_order if in_order else _as_it_comes)

    def before(self, sums: PartialSums, *, is_last: bool) -> None:
        """To be told of each piece; `sums` holds those of the pieces before."""
        self._sums = sums
        self._loss.require_backward_grad_sync = is_last

    def loss(self, *piece: Tensor) -> Tensor:
        """As the loss that was given."""
        assert self._sums is not None
        loss: Tensor = self._loss(*piece)
        if self._loss.require_backward_grad_sync:
            self._sums.define_others(set(leaves_of(loss)))
        return loss

    def finish(self, sums: PartialSums, losses: Sequence[Tensor]) -> Tensor:
        """The end of a step: the sum of all ranks' losses of pieces, in the order of the tree."""
        self._sums = None
        value = tree(losses) if self._in_order else reduce(torch.add, losses)
        values = value.new_empty(self.size)
        distributed.all_gather_single(values, value.view(1))
        return tree(values.unbind())


def _in_order(ranks: Ranks, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    assert ranks._sums is not None
    ranks._sums.add_to(bucket.parameters(), bucket.gradients())
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(summed_in_order(bucket.buffer(), ranks.size))
    return future


def _as_it_comes(ranks: Ranks, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    future = distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def leaves_of(value: Tensor) -> Iterator[Tensor]:
    """Parameters that have a gradient of `value`."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [following for following, _ in node.next_functions]


def summed_in_order(flat: Tensor, size: int) -> Tensor:
    """The sum [n] of each rank's numbers [n], in the order of the tree.

    Each rank sums a slice: as much is sent as by a ring, and libraries only copy.
    """
    padded = F.pad(flat, (0, -len(flat) % size)) if len(flat) % size else flat
    parts = torch.empty_like(padded)
    distributed.all_to_all_single(parts, padded)
    own = tree(parts.view(size, -1).unbind())
    distributed.all_gather_single(padded, own)
    return padded[: len(flat)]
