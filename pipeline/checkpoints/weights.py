"""Named tensors: reading them from safetensors, and whether they are those a network has."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.errors import CheckpointError


def read_safetensors(path: Path, device: torch.device) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on `device`.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def check_weights(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse tensors `found` in `path` whose names or shapes are not the `expected` ones.

    Raises:
        CheckpointError: it names what is missing, unexpected or of another shape.
    """
    mistakes = [f"{name} is missing" for name in expected if name not in found]
    mistakes += [f"{name} is unexpected" for name in found if name not in expected]
    mistakes += [
        f"{name} has shape {list(found[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    if mistakes:
        listed = "; ".join(mistakes[:5]) + ("; …" if len(mistakes) > 5 else "")
        raise CheckpointError(f"{path} does not fit its config: {listed}")
