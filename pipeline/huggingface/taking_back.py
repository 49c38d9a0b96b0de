"""An export as a checkpoint of this project again."""

from pathlib import Path

import torch

from pipeline.checkpoints.checkpoint import (
    CONFIG,
    FIRST_METHOD,
    TOKENIZER,
    WEIGHTS,
    About,
    keys_of,
)
from pipeline.checkpoints.keys import read_keys
from pipeline.checkpoints.weights import check_weights, read_safetensors, write_safetensors
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import CheckpointError
from pipeline.files import write_json
from pipeline.methods.registry import method_named


def take_back(export: Path, folder: Path) -> None:
    """Write `folder` as the checkpoint that `export` was made of; its code is not looked at.

    Weights in half precision become float32. Whether all fits together is for who loads it.

    Raises:
        CheckpointError: config.json lacks a key of the model's, or it or the weights are damaged.
        DataError: the tokenizer is missing or damaged.
    """
    config = read_keys(export / CONFIG)
    names = [*keys_of(method_named(FIRST_METHOD), config), *About.model_fields]
    if missing := [name for name in (*names, "num_tokens") if name not in config]:
        raise CheckpointError(f"{export / CONFIG} lacks {', '.join(missing)}")
    mine = {name: config[name] for name in names} | {"vocab_size": config["num_tokens"]}
    weights = read_safetensors(export / WEIGHTS, torch.device("cpu"))
    # Of themselves: what is no number, or a complex one, would become one in float32.
    check_weights(export / WEIGHTS, weights, weights)
    TextTokenizer.load(export).save(folder / TOKENIZER)
    try:
        write_json(folder / CONFIG, mine)
    except ValueError as error:
        raise CheckpointError(f"{export / CONFIG}: {error}") from None
    write_safetensors(folder / WEIGHTS, {name: value.float() for name, value in weights.items()})
