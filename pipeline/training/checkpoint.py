"""Checkpoints of score models: safetensors, a config and the tokenizer, in one folder."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pipeline.errors import CheckpointError
from pipeline.files import whole, write_json
from pipeline.sedd.model import SEDD, SEDDConfig

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer"


def save_checkpoint(folder: Path, model: SEDD, *, tokenizer: Path, tokenizer_sha256: str) -> str:
    """Write `model` and a copy of its tokenizer's folder; returns the SHA-256 of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.iterdir():
        with whole(folder / TOKENIZER / file.name) as partial:
            partial.write_bytes(file.read_bytes())
    config = model.config.asdict() | {"tokenizer_sha256": tokenizer_sha256}
    write_json(folder / CONFIG, config)
    weights = {name: value.cpu().contiguous() for name, value in model.network.state_dict().items()}
    with whole(folder / WEIGHTS) as partial:
        partial.write_bytes(save(weights))
    return weights_sha256(folder)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint.

    Raises:
        CheckpointError: there is none, or it is no config of this project.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint in {folder}: {CONFIG} is missing; `dvc repro` trains one"
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    expected = {field.name for field in fields(SEDDConfig)} | {"tokenizer_sha256"}
    if not isinstance(config, dict) or set(config) != expected:
        keys = sorted(expected.symmetric_difference(config))
        raise CheckpointError(f"{path} is not a config of this project (keys: {', '.join(keys)})")
    return config


def load_checkpoint(folder: Path, device: torch.device) -> SEDD:
    """Read a checkpoint, in eval mode on `device`.

    Raises:
        CheckpointError: a file is missing or damaged, or tensors do not fit the config.
    """
    config = checkpoint_config(folder)
    del config["tokenizer_sha256"]
    try:
        with torch.device(device):
            model = SEDD(SEDDConfig(**config))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{folder / CONFIG} describes no model: {error}") from error
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    _check_shapes(path, model.network.state_dict(), weights)
    model.network.load_state_dict(weights)
    return model.eval()


def check_tokenizer(folder: Path, tokenizer_sha256: str) -> None:
    """Refuse a checkpoint that was trained with another tokenizer.

    Raises:
        CheckpointError: the hashes differ.
    """
    trained_with = checkpoint_config(folder)["tokenizer_sha256"]
    if trained_with != tokenizer_sha256:
        raise CheckpointError(
            f"{folder} was trained with tokenizer {trained_with[:12]}, this one is "
            f"{tokenizer_sha256[:12]}"
        )


def _check_shapes(path: Path, expected: dict[str, Any], found: dict[str, Any]) -> None:
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
