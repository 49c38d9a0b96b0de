"""Weights, gradients and moments divided among ranks by FSDP2, with sums in an order of our own."""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from pipeline.scale.ddp import leaves_of
from pipeline.scale.tree import PartialSums, tree

T = TypeVar("T")


class _Root(nn.Module):
    """FSDP gathers weights where a module is called; what is called is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, compute: Callable[..., T], *arguments: Any) -> T:
        # Of a narrow copy that autocast keeps from an earlier call the gradient comes last of all,
        # when FSDP has summed those of its layer.
        before = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            return compute(*arguments)
        finally:
            torch.set_autocast_cache_enabled(before)


class Shards:
    """A loss of whose module each rank holds a part of every weight, once this is made.

    Weights of a layer are whole while it computes, all others from the loss's forward pass to its
    backward. Gradients of pieces are summed over ranks one piece after another: a rank has every
    `size`-th, so that those which are summed first are neighbours in `tree`.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[..., Tensor],
        layers: Iterable[nn.Module],
        *,
        size: int,
        device: torch.device,
        in_order: bool,
    ) -> None:
        """Args:
        layers: of the module, those that are only ever called as they are.
        in_order: sum as `tree` does, not as a library's ring would.
        """
        self.size = size
        self._loss, self._in_order = loss, in_order
        self._root = _Root(module)
        self._used = torch.zeros(len(list(module.parameters())), dtype=torch.uint8)
        mesh = init_device_mesh(device.type, (size,))
        for each in (*layers, self._root):
            fully_shard(each, mesh=mesh)
        for shard in self._shards():
            # Losses are divided by the size of the batch before.
            shard.set_gradient_divide_factor(1.0)
            shard.set_force_sum_reduction_for_comms(True)
            # Not all parameters need have a gradient in each piece, nor on each rank.
            shard.set_reduce_scatter_unused_params(True)
            if in_order:
                shard.set_custom_reduce_scatter(_SumInOrder())  # type: ignore[arg-type]

    def _shards(self) -> list[FSDPModule]:
        return [each for each in self._root.modules() if isinstance(each, FSDPModule)]

    def before(self, sums: PartialSums, *, is_last: bool) -> None:
        """As `ddp.Ranks`, which has to know; here each piece is summed for itself."""

    def loss(self, *piece: Tensor) -> Tensor:
        """As the loss that was given."""
        loss: Tensor = self._root(self._loss, *piece)
        leaves = set(leaves_of(loss))
        for index, parameter in enumerate(self._root.parameters()):
            # Layers, which are divided again, use all of theirs.
            if isinstance(parameter, DTensor) or parameter in leaves:
                self._used[index] = 1
        return loss

    def finish(self, sums: PartialSums, losses: Sequence[Tensor]) -> Tensor:
        """The end of a step: the sum of all ranks' losses of pieces, in the order of the tree."""
        sums.finish()
        distributed.all_reduce(self._used, distributed.ReduceOp.MAX)
        for parameter, used in zip(self._root.parameters(), self._used.tolist(), strict=True):
            if not used:  # As in one process: an optimiser passes it over.
                parameter.grad = None
        self._used.zero_()
        own = torch.stack(list(losses))
        values = own.new_empty(self.size * len(own))
        distributed.all_gather_single(values, own)
        by_piece = values.view(self.size, -1).T.flatten().unbind()
        return tree(by_piece) if self._in_order else reduce(torch.add, by_piece)

    @torch.no_grad()
    def whole(self, compute: Callable[[], T]) -> T:
        """What is computed with the module but not by its loss, in as many calls on each rank."""
        found: T = self._root(compute)
        for shard in self._shards():
            shard.reshard()
        return found

    def gather(self, *, here: bool) -> None:
        """Have the module hold whole weights on the CPU, where `here`; it is called no more."""
        gathered: dict[Tensor, nn.Parameter] = {}
        for parameter in list(self._root.parameters()):
            whole = parameter.full_tensor()  # type: ignore[attr-defined]
            if here:
                gathered[parameter] = nn.Parameter(whole.cpu())
        if here:
            for module in self._root.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    setattr(module, name, gathered[parameter])


class _SumInOrder:
    """As much is sent as by a ring, and libraries only copy."""

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: distributed.ProcessGroup,
        op: object,
        async_op: bool = False,
    ) -> None:
        parts = torch.empty_like(input_tensor)
        distributed.all_to_all_single(parts, input_tensor, group=group)
        output_tensor.copy_(tree(parts.view(group.size(), -1).unbind()))
