"""Named tensors: reading them from safetensors, and whether they are those a network has."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.files import tensors_written, whole

FLOATS = torch.float32, torch.float64, torch.float16, torch.bfloat16
QUICK = 200
"""Blocks that are built in no time, so that the tensors that are missing can be named."""


def read_safetensors(path: Path, device: torch.device) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on `device`.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} cannot be read: there is no such file")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def write_safetensors(path: Path, weights: dict[str, Tensor]) -> None:
    """Write tensors whole or not at all, from where they are: the file is not held beside them."""
    with whole(path) as partial, tensors_written(path):
        partial.touch()
        mode = partial.stat().st_mode
        save_file(weights, partial)
        partial.chmod(mode)  # The library's is a temporary file's, which its owner alone can read.


def check_weights(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse tensors `found` in `path` whose names or shapes are not the `expected` ones.

    Raises:
        CheckpointError: it names what is missing, unexpected, of another shape, or no number.
    """
    mistakes = [f"{name} is missing" for name in expected if name not in found]
    mistakes += [f"{name} is unexpected" for name in found if name not in expected]
    mistakes += [
        f"{name} has shape {list(found[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    # Values cost time, and of wrong shapes perhaps memory.
    mistakes = mistakes or [
        f"{name} {mistake}" for name, value in found.items() if (mistake := _wrong_values(value))
    ]
    if mistakes:
        listed = "; ".join(mistakes[:5]) + ("; …" if len(mistakes) > 5 else "")
        raise CheckpointError(f"{path} does not fit its config: {listed}")


def check_num_blocks(path: Path, num_blocks: int, found: Mapping[str, Tensor]) -> None:
    """Refuse more blocks than the tensors `found` in `path` can be of, before building any.

    Raises:
        CheckpointError: there are fewer tensors than blocks, and building these would take long.
    """
    if num_blocks > max(len(found), QUICK):
        raise CheckpointError(
            f"{path} does not fit its config: it holds {len(found)} tensors, not enough for "
            f"{num_blocks} blocks (num_blocks)"
        )


def _wrong_values(value: Tensor) -> str | None:
    """Why `value` cannot be a weight of a network in float32."""
    if value.dtype not in FLOATS:
        return f"is {str(value.dtype).removeprefix('torch.')}, expected float32"
    if value.untyped_storage().nbytes() < value.nbytes:
        return "repeats its values, expected each stored"
    if not value.float().isfinite().all():
        return "holds values that are no finite numbers"
    # A flipped bit makes such of a weight; every sum of products with it is infinite, or nothing.
    if not value.float().square().isfinite().all():
        return "holds values too large to be multiplied"
    return None
