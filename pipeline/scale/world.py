"""The processes of one job, each of a rank; or one process, which knows nothing of others."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from pipeline.errors import PipelineError

T = TypeVar("T")


class PeerError(PipelineError):
    """A rank heard nothing of another, or that it has ended: that one knows why."""


@dataclass(frozen=True)
class World:
    """Where this process stands among `size`; all of them call the same methods, in one order."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Of one rank alone: the one that writes."""
        return self.rank == 0

    def part(self, pieces: list[T]) -> list[T]:
        """This rank's share of pieces, whose number `size` divides."""
        num = len(pieces) // self.size
        return pieces[self.rank * num : (self.rank + 1) * num]

    def rows(self, of_this: torch.Tensor) -> torch.Tensor:
        """Rows [B, ...] of all ranks, of which this one has [b, ...]."""
        if self.size == 1:
            return of_this
        return torch.cat(self.gather(of_this.cpu())).to(of_this.device)

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


ALONE = World()


def check_same_step(world: World, step: int | None) -> None:
    """Raise PipelineError unless every rank found a state of the same step."""
    steps = world.gather(step)
    if len(set(steps)) > 1:
        raise PipelineError(
            f"ranks found unfinished training of different steps ({steps}): their machines must "
            "share the project's folder"
        )


@contextmanager
def joined(size: int, device: torch.device, timeout_seconds: int) -> Iterator[World]:
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
    with _meeting(timeout_seconds):
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    with _failing_alone(timeout_seconds):
        yield World(distributed.get_rank(), size)
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
