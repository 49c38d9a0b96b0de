"""A checkpoint of which each rank writes its parts of tensors, by torch.distributed.checkpoint.

It is read by any number of ranks, and by one process, whether or not they divide weights.
"""

import pickle
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import _pytree as pytree

from pipeline.errors import CheckpointError

State = dict[str, Any]


def without_tensors(state: State) -> State:
    """A state with None for each tensor."""
    plain: State = pytree.tree_map_only(Tensor, lambda _: None, state)
    return plain


def write(state: State, folder: Path, group: ProcessGroup, *, beside: bool) -> "Future[Any]":
    """Write the tensors of a state, on all ranks of a group; what it returns has a result then.

    Args:
        beside: return once they are copied to the CPU's memory.
    """
    tensors = _by_name(state)
    if beside:
        written = async_save(tensors, checkpoint_id=folder, process_group=group)
        assert isinstance(written, Future)
        return written
    done: Future[Any] = Future()
    try:
        done.set_result(save(tensors, checkpoint_id=folder, process_group=group))
    except CheckpointException as error:
        done.set_exception(error)
    return done


def wait(written: "Future[Any]", folder: Path) -> None:
    """Wait for what `write` returned, to a folder.

    Raises:
        OSError: a system refused a rank.
        CheckpointException: a rank found something else wrong.
    """
    try:
        written.result()
    except CheckpointException as error:
        for found, _ in error.failures.values():
            if isinstance(found, OSError):
                found.filename = found.filename or str(folder)
                raise found from error
        raise


def read(plain: State, own: State, folder: Path) -> State:
    """A state that was written to `folder`, in the tensors of `own`, which is of its shape.

    Args:
        plain: it without its tensors.
    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with catch_warnings():
            filterwarnings("ignore", message="torch.distributed is disabled")  # As it shall be.
            load(_by_name(own), checkpoint_id=folder, no_dist=True)
    except (CheckpointException, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{folder} cannot be read: remove {folder.parent} to start again ({error})"
        ) from error
    filled: State = pytree.tree_map(
        lambda value, mine: mine if isinstance(mine, Tensor) else value, plain, own
    )
    return filled


def divided(state: State, own: State) -> State:
    """A state of whole tensors, as parts where `own` has some."""

    def part(value: Any, mine: Any) -> Any:
        if not isinstance(mine, DTensor):
            return value
        # Each rank has all of it, and sends nothing.
        value = value.to(mine.device)
        return distribute_tensor(value, mine.device_mesh, mine.placements, src_data_rank=None)

    parts: State = pytree.tree_map(part, state, own)
    return parts


def _by_name(state: State) -> dict[str, Tensor]:
    leaves, _ = pytree.tree_flatten_with_path(state)
    return {pytree.keystr(path): leaf for path, leaf in leaves if isinstance(leaf, torch.Tensor)}
