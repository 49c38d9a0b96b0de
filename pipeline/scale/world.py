"""The processes of one job, each of a rank; or one process, which knows nothing of others."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch

from pipeline.errors import PipelineError

T = TypeVar("T")
Strategy = Literal["ddp", "fsdp"]
"""Where weights lie: on every rank, or divided among them."""


class PeerError(PipelineError):
    """A rank heard nothing of another, or that it has ended: that one knows why."""


@dataclass(frozen=True)
class World:
    """Where this process stands among `size`; all of them call the same methods, in one order."""

    rank: int = 0
    size: int = 1
    strategy: Strategy = "ddp"
    beside: Any = None
    """A group of all processes for what goes on beside training, where weights are divided."""

    @property
    def is_first(self) -> bool:
        """Of one rank alone: the one that writes."""
        return self.rank == 0

    @property
    def divides(self) -> bool:
        """Whether each rank holds a part of every weight."""
        return self.size > 1 and self.strategy == "fsdp"

    def part(self, pieces: list[T]) -> list[T]:
        """This rank's share of pieces, whose number `size` divides.

        As many in a row; where weights are divided, every `size`-th: see `fsdp.Shards`.
        """
        if self.divides:
            return pieces[self.rank :: self.size]
        num = len(pieces) // self.size
        return pieces[self.rank * num : (self.rank + 1) * num]

    def rows(self, of_this: torch.Tensor, num_pieces: int) -> torch.Tensor:
        """Rows [B, ...] of all ranks, of which this one has [b, ...], in `num_pieces` pieces."""
        if self.size == 1:
            return of_this
        found = self.gather(of_this.cpu())
        if self.divides:
            by_rank = (torch.chunk(rows, num_pieces) for rows in found)
            found = [piece for pieces in zip(*by_rank, strict=True) for piece in pieces]
        return torch.cat(found).to(of_this.device)

    def agree(self, flag: bool) -> bool:
        """Whether any rank says so."""
        if self.size == 1:
            return flag
        from torch import distributed

        said = torch.tensor(int(flag))
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
        return bool(said)

    def gather(self, value: Any) -> list[Any]:
        """What each rank has, plain values or tensors, in the order of ranks."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def in_order(self, num: int, compute: Callable[[int], T]) -> list[T]:
        """Results 0 to `num` - 1, plain values or tensors on the CPU, on every rank, in turns.

        Where weights are divided ranks call a module together, and as often: some compute a result
        again, and all compute the last one, which may be of fewer rows and so of fewer calls.
        """
        shared = num - 1 if self.divides else num
        turns = range(0, shared, self.size)
        mine = [compute(min(first + self.rank, shared - 1)) for first in turns]
        found = [each for turn in zip(*self.gather(mine), strict=True) for each in turn][:shared]
        return [*found, *map(compute, range(shared, num))]


ALONE = World()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it is, or gathered from the parts that ranks hold of it, all of which ask."""
    gathered: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def check_same_step(world: World, step: int | None) -> None:
    """Raise PipelineError unless every rank found a state of the same step."""
    steps = world.gather(step)
    if len(set(steps)) > 1:
        raise PipelineError(
            f"ranks found unfinished training of different steps ({steps}): their machines must "
            "share its folder (resources.store)"
        )


def parts(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors as they are, or what this rank holds of each, which may be empty."""
    return [each.to_local() if hasattr(each, "to_local") else each for each in tensors]


@contextmanager
def joined(
    size: int, device: torch.device, timeout_seconds: int, strategy: Strategy = "ddp"
) -> Iterator[World]:
    """The world of `size` processes; which of them this is says its environment.

    Args:
        timeout_seconds: how long a rank waits for another.
    Raises:
        PeerError: another rank is silent, or has ended.
        PipelineError: there are not as many, or they have no place to meet.
    """
    if size == 1:
        yield ALONE
        return
    from torch import distributed

    if (found := os.environ.get("WORLD_SIZE")) != str(size):
        raise PipelineError(
            f"WORLD_SIZE must be resources.processes * resources.nodes, {size} (got {found})"
        )
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.index is not None:  # Of a GPU: where NCCL works.
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_seconds)
    with _meeting(timeout_seconds):
        distributed.init_process_group(backend, timeout=timeout)
    with _failing_alone(timeout_seconds):
        beside = None
        if strategy == "fsdp":
            beside = distributed.new_group(timeout=timeout, backend="gloo")
        yield World(distributed.get_rank(), size, strategy, beside)
    # After a failure it would wait for those that are gone.
    distributed.destroy_process_group()


SILENT = ("Timed out", "timed out", "timeout", "Timeout")
ENDED = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused")
"""What libraries say of a rank that does not answer, and of one that has ended."""


@contextmanager
def _failing_alone(timeout_seconds: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        from torch import distributed

        said = str(error)
        if any(words in said for words in SILENT):
            raise PeerError(
                f"a rank was silent for {timeout_seconds} s (resources.timeout_seconds)"
            ) from error
        if isinstance(error, distributed.DistError) or any(words in said for words in ENDED):
            raise PeerError("a rank has ended") from error
        raise


@contextmanager
def _meeting(timeout_seconds: int) -> Iterator[None]:
    from torch import distributed

    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        yield
    except ValueError as error:  # A variable of the environment is missing.
        raise PipelineError(f"ranks cannot meet: {error}") from None
    except distributed.DistError as error:
        said = str(error)
        if "EADDRINUSE" in said:
            why = "that port is in use: set MASTER_PORT to another"
        elif any(words in said for words in SILENT):
            why = f"not all came within {timeout_seconds} s (resources.timeout_seconds)"
        else:
            why = said.splitlines()[0]
        raise PipelineError(
            f"ranks cannot meet at {place} (MASTER_ADDR, MASTER_PORT): {why}"
        ) from None
