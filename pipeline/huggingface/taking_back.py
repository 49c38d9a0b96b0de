"""An export as a checkpoint of this project again."""

from pathlib import Path

import torch
from safetensors.torch import save

from pipeline.checkpoints.checkpoint import (
    CONFIG,
    FIRST_METHOD,
    TOKENIZER,
    WEIGHTS,
    About,
    keys_of,
)
from pipeline.checkpoints.weights import read_safetensors
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import CheckpointError
from pipeline.files import read_object, whole, write_json
from pipeline.methods.registry import method_named


def take_back(export: Path, folder: Path) -> None:
    """Write `folder` as the checkpoint that `export` was made of; its code is not looked at.

    Weights in half precision become float32. Whether all fits together is for who loads it.

    Raises:
        CheckpointError: config.json lacks a key of the model's, or the weights are damaged.
        DataError: the tokenizer is missing or damaged.
    """
    config = read_object(export / CONFIG)
    names = [*keys_of(method_named(FIRST_METHOD), config), *About.model_fields]
    if missing := [name for name in (*names, "num_tokens") if name not in config]:
        raise CheckpointError(f"{export / CONFIG} lacks {', '.join(missing)}")
    mine = {name: config[name] for name in names} | {"vocab_size": config["num_tokens"]}
    weights = read_safetensors(export / WEIGHTS, torch.device("cpu"))
    TextTokenizer.load(export).save(folder / TOKENIZER)
    write_json(folder / CONFIG, mine)
    with whole(folder / WEIGHTS) as partial:
        partial.write_bytes(save({name: value.float() for name, value in weights.items()}))
