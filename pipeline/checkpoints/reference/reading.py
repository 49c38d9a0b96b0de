"""Checkpoints of the paper's reference implementation, and of others' code, in each layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints.reference import lightning
from pipeline.checkpoints.reference.config import Described, read_config
from pipeline.checkpoints.reference.timeless import without_mask, without_time
from pipeline.checkpoints.reference.unpickling import read_pickle
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
LIGHTNING = ".ckpt"
"""Ends the name of a file that holds weights and what they are of."""
PREFIXES = "module.", "backbone.", "_orig_mod."
"""What models are wrapped in, before each name."""


@dataclass(frozen=True)
class Published:
    """A model as it was published.

    Attributes:
        config: what defines it.
        weights: float32, named and shaped as those of the config's network.
    """

    config: SEDDConfig
    weights: dict[str, Tensor]


def read_published(source: Path) -> Published:
    """Read a checkpoint; the averaged weights in place of the raw, if it has them.

    Args:
        source: its folder, or the one file of Lightning.
    Raises:
        CheckpointError: a file is missing, damaged or of another format, or tensors do not fit.
    """
    config_path, path = _files(source)
    if path.suffix == LIGHTNING:
        stored = _read_names(path)
        raw, averaged = _weights_in(path, stored, "state_dict")
        weights = _without_prefix(raw)
        described = lightning.describe(path, stored, weights)
    else:
        described = read_config(config_path)
        raw, averaged = _read_weights(path)
        weights = _without_prefix(raw)
    weights = _checked(path, described, weights, averaged)
    return Published(described.config, _as_ours(described, weights))


def _checked(
    path: Path, described: Described, weights: dict[str, Tensor], averaged: list[Any] | None
) -> dict[str, Tensor]:
    """Weights in float32 that fit what is described, the averaged in place of the others."""
    check_num_blocks(path, described.config.num_blocks, weights)
    network = _stored(described)
    check_weights(path, network.state_dict(), weights)
    if averaged is not None:
        weights = weights | _named(path, network, averaged)
        check_weights(path, network.state_dict(), weights)
    return {name: value.float() for name, value in weights.items()}


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
    """Weights without what stands before every name."""
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
    """Where the config and the weights are, which may be one file."""
    if folder.suffix == LIGHTNING and folder.is_file():
        return folder, folder
    for config, weights in LAYOUTS:
        if (folder / config).is_file() and (folder / weights).is_file():
            return folder / config, folder / weights
    if not folder.is_dir():
        raise CheckpointError(f"no published checkpoint: there is no folder {folder}")
    several = sorted(folder.glob(f"*{LIGHTNING}"))
    if len(several) == 1:
        return several[0], several[0]
    if several:
        listed = ", ".join(path.name for path in several)
        raise CheckpointError(f"{folder} has several checkpoints, name one of the files: {listed}")
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    pairs = ", or ".join(f"{config} and {weights}" for config, weights in LAYOUTS)
    raise CheckpointError(
        f"no published checkpoint in {folder}: it has {found}; needed: {pairs}, or one {LIGHTNING}"
    )


def _read_weights(path: Path) -> tuple[dict[str, Tensor], list[Any] | None]:
    """The named raw weights, and the averaged ones in the order of parameters if there are any."""
    if path.suffix == ".safetensors":
        return read_safetensors(path, torch.device("cpu")), None
    return _weights_in(path, _read_names(path), "model")


def _read_names(path: Path) -> dict[Any, Any]:
    stored = read_pickle(path)
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path} holds a {type(stored).__name__}, not named tensors")
    return stored


def _weights_in(
    path: Path, stored: dict[Any, Any], key: str
) -> tuple[dict[str, Tensor], list[Any] | None]:
    """As `_read_weights`, of what a pickle holds, under `key` or alone."""
    named = stored[key] if isinstance(stored.get(key), dict) else stored
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


def _named(path: Path, network: torch.nn.Module, averaged: list[Any]) -> dict[str, Tensor]:
    """Averaged weights, stored as a list in the order of parameters, by name."""
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if len(averaged) != len(names) or not all(isinstance(value, Tensor) for value in averaged):
        raise CheckpointError(
            f"{path}: ema.shadow_params must be {len(names)} tensors, one for each parameter "
            f"(it has {len(averaged)} entries)"
        )
    return dict(zip(names, averaged, strict=True))
