"""Checkpoints of models: safetensors, a config and the tokenizer, in one folder."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from pipeline.checkpoints.keys import read_keys
from pipeline.checkpoints.weights import (
    check_num_blocks,
    check_weights,
    read_safetensors,
    write_safetensors,
)
from pipeline.config.mistakes import mistakes
from pipeline.errors import CheckpointError
from pipeline.files import copy_whole, sha256, write_json
from pipeline.methods.protocol import Method, Model
from pipeline.methods.registry import method_named, method_of

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer"
# The method of a configuration that names none.
FIRST_METHOD = "sedd"


class About(BaseModel):
    """What config.json says beside the configuration of the model."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    tokenizer_sha256: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
    text_lengths: list[Annotated[int, Field(ge=0, lt=2**53)]] | None


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
        copy_whole(file, folder / TOKENIZER / file.name)
    about = {"tokenizer_sha256": tokenizer_sha256, "text_lengths": text_lengths}
    write_json(folder / CONFIG, model.config.asdict() | about)
    weights = {name: value.cpu().contiguous() for name, value in model.network.state_dict().items()}
    write_safetensors(folder / WEIGHTS, weights)
    return weights_sha256(folder)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights.

    Raises:
        CheckpointError: there are none.
    """
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"no checkpoint in {folder}: {WEIGHTS} is missing")
    return sha256(folder / WEIGHTS)


def checkpoint_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint.

    Raises:
        CheckpointError: there is none, or it is no config of this project; every wrong key is
            named.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint in {folder}: {CONFIG} is missing; `dvc repro` trains one"
        )
    config = read_keys(path)
    method = _method_of(config, path)
    types = get_type_hints(method.Config)
    keys = keys_of(method, config)
    expected = {*About.model_fields, *keys} | ({"method"} & config.keys())
    if config.keys() != expected:
        listed = ", ".join(sorted(expected.symmetric_difference(config)))
        raise CheckpointError(f"{path} is not a config of this project (keys: {listed})")
    typed: dict[str, Any] = {key: (types[key], ...) for key in keys} | {"method": (str, "")}
    try:
        create_model("Config", __base__=About, **typed).model_validate(config)
        made = method.Config(**{key: config[key] for key in keys})
    except ValidationError as error:
        lines = "; ".join(mistakes(error))
        raise CheckpointError(f"{path}: {lines}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    lengths = config["text_lengths"]
    if lengths is not None and len(lengths) != made.length:
        raise CheckpointError(
            f"{path}: text_lengths must have {made.length} numbers, one for each length "
            f"(it has {len(lengths)})"
        )
    return config


def keys_of(method: Method, config: dict[str, Any]) -> list[str]:
    """The fields that config.json has; some only if the model is what they are about."""
    return [
        field.name
        for field in fields(method.Config)
        if not field.metadata or field.metadata["only_with"] in config
    ]


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` has a config.json that is meant for this project."""
    try:
        return read_keys(folder / CONFIG).keys() >= About.model_fields.keys()
    except CheckpointError:
        return False


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
    made = method.Config(**{key: config[key] for key in keys_of(method, config)})
    path = folder / WEIGHTS
    weights = read_safetensors(path, device)
    check_num_blocks(path, made.num_blocks, weights)
    try:
        # First without values, so that a config of other sizes costs no memory.
        with torch.device("meta"):
            expected = method.build(made).network.state_dict()
        check_weights(path, expected, weights)
        with torch.device(device):
            model = method.build(made)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG} describes no model: {error}") from error
    model.network.load_state_dict(weights)
    return model.eval()


def warm_start(config: Any, folder: Path, device: torch.device) -> Model:
    """A model of `config` on `device`, with the weights of the checkpoint in `folder`.

    Noise, dropout and t_min may differ; so may the length, where no weight depends on it.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another architecture.
    """
    found, method = load_checkpoint(folder, device), method_named(config.method)
    if method_of(found) is not method:
        raise CheckpointError(
            f"train.init: {folder} is of the method {found.config.method}, "
            f"and method is {config.method}"
        )
    mistakes = [
        f"{key} is {getattr(config, name)} here and {getattr(found.config, name)} there"
        for name, key in method.ARCHITECTURE.items()
        if getattr(config, name) != getattr(found.config, name)
    ]
    if mistakes:
        raise CheckpointError(f"train.init: {folder} is another model: {'; '.join(mistakes)}")
    model = method.build(method.warm_started(config, found.config)).to(device)
    check_weights(folder / WEIGHTS, model.network.state_dict(), found.network.state_dict())
    model.network.load_state_dict(found.network.state_dict())
    return model


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
