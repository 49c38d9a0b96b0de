"""Pickles of strangers: tensors, plain values, and what is neither as something inert."""

import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from pipeline.checkpoints.reference import rehearsal
from pipeline.errors import CheckpointError

# What torch raises of a file that is damaged, in a pickle or in the zip around it.
DAMAGE = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError, OSError, MemoryError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError),
)
PATIENCE = 10.0
"""Seconds that names and plain values of a pickle may take: real ones take less than one."""


class Kept:
    """Takes the place of an object of any class that is neither a tensor nor a plain value.

    Attributes:
        state: what the pickle says of it, None if nothing.
    """

    state: Any = None

    def __init__(self, *args: Any) -> None:
        pass

    def __repr__(self) -> str:
        return "an object"

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_pickle(path: Path) -> Any:
    """What a file of torch.save holds; nothing that it names is imported or called.

    Raises:
        CheckpointError: it is damaged, takes too much, or asks for what is not read; it is named.
    """
    _rehearse(path)
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        others = get_unsafe_globals_in_checkpoint(path) if is_zip else []
        inert: list[Any] = [
            (rehearsal.empty if name == "collections.defaultdict" else Kept, name)
            for name in others
        ]
        with safe_globals(inert):
            # Mapped where the format allows it: the optimizer's state, twice the weights, is not
            # read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except DAMAGE as error:
        reason = (str(error) or "the file ends too early").splitlines()[0]
        raise CheckpointError(f"{path} cannot be read: {reason}") from None


def _rehearse(path: Path) -> None:
    """Refuse a pickle that takes too much, or asks for what is not read."""
    # Isolated, so that nothing beside the file is imported.
    command = [sys.executable, "-I", rehearsal.__file__, str(path)]
    try:
        run = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{path} is not opened: it does not end") from None
    if run.returncode:
        reason = run.stdout.decode(errors="replace")
        how = f"is not opened: {reason}" if reason else "cannot be read: it is damaged"
        raise CheckpointError(f"{path} {how}")
