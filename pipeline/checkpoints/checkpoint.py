"""Checkpoints of models: safetensors, a config and the tokenizer, in one folder."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save

from pipeline.checkpoints.weights import check_weights, read_safetensors
from pipeline.errors import CheckpointError
from pipeline.files import sha256, whole, write_json
from pipeline.methods.protocol import Method, Model
from pipeline.methods.registry import method_named, method_of

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer"
# What config.json says beside the configuration of the model.
ABOUT = {"tokenizer_sha256", "text_lengths"}
# The method of a configuration that names none.
FIRST_METHOD = "sedd"


def save_checkpoint(
    folder: Path,
    model: Model,
    *,
    tokenizer: Path,
    tokenizer_sha256: str,
    text_lengths: list[int] | None = None,
) -> str:
    """Write `model` and a copy of its tokenizer's folder; returns the SHA-256 of the weights.

    Args:
        text_lengths: training texts of 0, 1, … tokens; None where blocks are no single texts but
            windows of running text, as those of the paper's checkpoints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.iterdir():
        with whole(folder / TOKENIZER / file.name) as partial:
            partial.write_bytes(file.read_bytes())
    about = {"tokenizer_sha256": tokenizer_sha256, "text_lengths": text_lengths}
    write_json(folder / CONFIG, model.config.asdict() | about)
    weights = {name: value.cpu().contiguous() for name, value in model.network.state_dict().items()}
    with whole(folder / WEIGHTS) as partial:
        partial.write_bytes(save(weights))
    return weights_sha256(folder)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights.

    Raises:
        CheckpointError: there are none.
    """
    try:
        return sha256(folder / WEIGHTS)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint in {folder}: {WEIGHTS} is missing") from None


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
    expected = ABOUT
    if isinstance(config, dict):
        expected = ABOUT | {field.name for field in fields(_method_of(config, path).Config)}
        expected |= {"method"} & config.keys()
    if not isinstance(config, dict) or set(config) != expected:
        keys = sorted(expected.symmetric_difference(config))
        raise CheckpointError(f"{path} is not a config of this project (keys: {', '.join(keys)})")
    return config


def _method_of(config: dict[str, Any], path: Path) -> Method:
    try:
        return method_named(config.get("method", FIRST_METHOD))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def block_mode(folder: Path) -> Literal["pad", "concat"]:
    """What the blocks of the model in `folder` are: one text each, or windows of running text.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    return "concat" if checkpoint_config(folder)["text_lengths"] is None else "pad"


def load_checkpoint(folder: Path, device: torch.device) -> Model:
    """Read a checkpoint, in eval mode on `device`.

    Raises:
        CheckpointError: a file is missing or damaged, or tensors do not fit the config.
    """
    config = checkpoint_config(folder)
    method = _method_of(config, folder / CONFIG)
    try:
        values = {key: config[key] for key in config.keys() - ABOUT - {"method"}}
        with torch.device(device):
            model = method.build(method.Config(**values))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{folder / CONFIG} describes no model: {error}") from error
    path = folder / WEIGHTS
    weights = read_safetensors(path, device)
    check_weights(path, model.network.state_dict(), weights)
    model.network.load_state_dict(weights)
    return model.eval()


def warm_start(model: Model, folder: Path) -> None:
    """Give `model` the weights of the checkpoint in `folder`.

    Noise, dropout and t_min may differ; so may the length, where no weight depends on it.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another architecture.
    """
    found = load_checkpoint(folder, next(model.parameters()).device)
    if method_of(found) is not method_of(model):
        raise CheckpointError(
            f"train.init: {folder} is of the method {found.config.method}, "
            f"and method is {model.config.method}"
        )
    mistakes = [
        f"{key} is {getattr(model.config, name)} here and {getattr(found.config, name)} there"
        for name, key in method_of(model).ARCHITECTURE.items()
        if getattr(model.config, name) != getattr(found.config, name)
    ]
    if mistakes:
        raise CheckpointError(f"train.init: {folder} is another model: {'; '.join(mistakes)}")
    check_weights(folder / WEIGHTS, model.network.state_dict(), found.network.state_dict())
    model.network.load_state_dict(found.network.state_dict())
    model.config = method_of(model).warm_started(model.config, found.config)


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
