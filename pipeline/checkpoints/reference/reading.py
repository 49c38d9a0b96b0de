"""Checkpoints of the paper's reference implementation, RADD's and MDLM's, in each layout."""

import pickle
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints.reference import rehearsal
from pipeline.checkpoints.reference.config import Described, read_config
from pipeline.checkpoints.reference.timeless import without_mask, without_time
from pipeline.checkpoints.weights import check_num_blocks, check_weights, read_safetensors
from pipeline.errors import CheckpointError
from pipeline.methods.sedd.model import SEDD, SEDDConfig
from pipeline.methods.sedd.network import Transformer

# Config and weights: the small and medium models, the large one, and what the code itself writes.
LAYOUTS = (
    ("config.json", "model.safetensors"),
    ("config.json", "pytorch_model.bin"),
    ("config.yaml", "checkpoint.pth"),
    (".hydra/config.yaml", "checkpoints-meta/checkpoint.pth"),
)
PREFIXES = "module.", "backbone.", "_orig_mod."
# What torch raises of a file that is damaged, in a pickle or in the zip around it.
DAMAGE = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError, OSError, MemoryError),
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError),
)
PATIENCE = 10.0
"""Seconds that names and plain values of a pickle may take: real ones take less than one."""


@dataclass(frozen=True)
class Published:
    """A model as it was published.

    Attributes:
        config: what defines it.
        weights: float32, named and shaped as those of the config's network.
    """

    config: SEDDConfig
    weights: dict[str, Tensor]


def read_published(folder: Path) -> Published:
    """Read the checkpoint in `folder`; the averaged weights in place of the raw, if it has them.

    Raises:
        CheckpointError: a file is missing, damaged or of another format, or tensors do not fit.
    """
    config_path, path = _files(folder)
    described = read_config(config_path)
    raw, averaged = _read_weights(path)
    check_num_blocks(path, described.config.num_blocks, raw)
    network = _stored(described)
    weights = _without_prefix(raw)
    check_weights(path, network.state_dict(), weights)
    if averaged is not None:
        weights |= _named(path, network, averaged)
    check_weights(path, network.state_dict(), weights)
    weights = {name: value.float() for name, value in weights.items()}
    return Published(described.config, _as_ours(described, weights))


def build(published: Published, device: torch.device) -> SEDD:
    """The model in eval mode; on the CPU it shares the tensors of `published.weights`."""
    model = _empty(published.config)
    model.network.load_state_dict(published.weights, assign=True)
    return model.to(device).eval()


def _empty(config: SEDDConfig) -> SEDD:
    """The model with shapes and no values, so that a wrong config costs no memory."""
    with torch.device("meta"):
        return SEDD(config)


def _as_ours(described: Described, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    if described.config.parameterization == "raw":
        return weights
    return without_mask(without_time(weights) if described.takes_sigma else weights)


def _without_prefix(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights without what stands before each name: what a model is wrapped in."""
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named


def _stored(described: Described) -> Transformer:
    """The network whose weights are stored, with shapes and no values."""
    config = described.config
    if config.parameterization == "raw":
        return _empty(config).network
    with torch.device("meta"):
        return Transformer(
            num_states=config.vocab_size + 1,
            num_outputs=config.vocab_size + 1,
            width=config.width,
            num_blocks=config.num_blocks,
            num_heads=config.num_heads,
            cond_dim=config.cond_dim if described.takes_sigma else None,
            dropout=config.dropout,
            norm_bias=not described.takes_sigma,
        )


def _files(folder: Path) -> tuple[Path, Path]:
    for config, weights in LAYOUTS:
        if (folder / config).is_file() and (folder / weights).is_file():
            return folder / config, folder / weights
    if not folder.is_dir():
        raise CheckpointError(f"no published checkpoint: there is no folder {folder}")
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    pairs = ", or ".join(f"{config} and {weights}" for config, weights in LAYOUTS)
    raise CheckpointError(f"no published checkpoint in {folder}: it has {found}; needed: {pairs}")


def _read_weights(path: Path) -> tuple[dict[str, Tensor], list[Any] | None]:
    """The named raw weights, and the averaged ones in the order of parameters if there are any."""
    if path.suffix == ".safetensors":
        return read_safetensors(path, torch.device("cpu")), None
    stored = _read_pickle(path)
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path} holds a {type(stored).__name__}, not named tensors")
    named = stored["model"] if isinstance(stored.get("model"), dict) else stored
    if not all(isinstance(key, str) for key in named):
        raise CheckpointError(f"{path} does not hold named tensors: a name is no text")
    strange = [key for key, value in named.items() if not isinstance(value, Tensor)]
    if strange or not named:
        listed = f"{', '.join(strange[:5])} hold none" if strange else "it is empty"
        raise CheckpointError(f"{path} does not hold named tensors: {listed}")
    averaged = None if named is stored else stored.get("ema")
    if averaged is None:
        return named, None
    if not isinstance(averaged, dict) or not isinstance(averaged.get("shadow_params"), list):
        raise CheckpointError(f"{path}: ema must hold a list shadow_params")
    return named, averaged["shadow_params"]


def _read_pickle(path: Path) -> Any:
    _rehearse(path)
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        # Mapped where the format allows it: the optimizer's state, twice the weights, is not read.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except DAMAGE as error:
        reason = (str(error) or "the file ends too early").splitlines()[0]
        raise CheckpointError(f"{path} cannot be read: {reason}") from None


def _rehearse(path: Path) -> None:
    """Refuse a pickle that takes too much, or asks for more than tensors."""
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


def _named(path: Path, network: torch.nn.Module, averaged: list[Any]) -> dict[str, Tensor]:
    """Averaged weights, stored as a list in the order of parameters, by name."""
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if len(averaged) != len(names) or not all(isinstance(value, Tensor) for value in averaged):
        raise CheckpointError(
            f"{path}: ema.shadow_params must be {len(names)} tensors, one for each parameter "
            f"(it has {len(averaged)} entries)"
        )
    return dict(zip(names, averaged, strict=True))
