"""A checkpoint as a folder that transformers loads, without this project."""

import shutil
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from pipeline.checkpoints.keys import read_keys
from pipeline.checkpoints.weights import check_weights, read_safetensors
from pipeline.errors import CheckpointError, ParamsError
from pipeline.files import read_object, whole, write_json
from pipeline.huggingface.card import Card, render
from pipeline.oxen.folders import in_place_of

MODELLING = Path(__file__).with_name("modeling_sedd.py")
"""The one file of code that goes along: it imports nothing of this project."""
ABOUT = ("tokenizer_sha256", "text_lengths")


def write_export(source: Path, destination: Path, card: Card, *, replace: bool = False) -> None:
    """Write the checkpoint in `source` as `destination`, which appears whole or not at all.

    It holds config.json, model.safetensors, the modelling file, the tokenizer as AutoTokenizer
    reads it, and README.md.

    Args:
        replace: an earlier export may be there.
    Raises:
        ParamsError: something else is there.
        CheckpointError: the checkpoint is damaged, holds values that are no numbers, or is of a
            method that transformers cannot be given.
    """
    earlier = replace and is_export(destination)
    if destination.exists() and not earlier and not _is_empty(destination):
        raise ParamsError(f"{destination} is there already, and holds other files than an export")
    config = read_object(source / "config.json", *ABOUT)
    if (method := config.get("method", "sedd")) != "sedd":
        raise CheckpointError(
            f"{source} is of method {method}; an export holds the score of method sedd"
        )
    if labels := config.get("labels"):
        raise CheckpointError(
            f"{source} was trained with data.labels ({', '.join(labels)}); an export holds a score "
            "of texts alone"
        )
    path = source / "model.safetensors"
    weights = read_safetensors(path, torch.device("cpu"))
    check_weights(path, weights, weights)
    with in_place_of(destination) as partial:
        special = _write_tokenizer(source / "tokenizer", partial, config)
        write_json(partial / "config.json", _described(config) | special)
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        # safetensors makes it for its owner alone.
        shutil.copymode(partial / "config.json", partial / "model.safetensors")
        shutil.copyfile(MODELLING, partial / MODELLING.name)
        with whole(partial / "README.md") as text:
            text.write_text(render(card, config, _size(weights)), encoding="utf-8")
        if earlier:
            shutil.rmtree(destination)


def is_export(folder: Path) -> bool:
    """Whether `folder` is what `write_export` writes."""
    try:
        return read_keys(folder / "config.json").get("model_type") == "sedd"
    except CheckpointError:
        return False


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _size(weights: dict[str, torch.Tensor]) -> int:
    return sum(value.numel() for name, value in weights.items() if not name.endswith("inv_freq"))


def _described(config: dict[str, Any]) -> dict[str, Any]:
    """config.json: what defines the model, and which class of the modelling file is what."""
    classes = {"AutoConfig": "SEDDConfig", "AutoModel": "SEDDModel"}
    if config["graph"] == "absorb":
        classes["AutoModelForMaskedLM"] = "SEDDForMaskedLM"
    last = list(classes.values())[-1]
    return {
        "model_type": "sedd",
        "architectures": [last],
        "auto_map": {name: f"{MODELLING.stem}.{each}" for name, each in classes.items()},
        "dtype": "float32",
        **config,
        "num_tokens": config["vocab_size"],
        "vocab_size": config["vocab_size"] + (config["graph"] == "absorb"),
    }


def _write_tokenizer(source: Path, destination: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Write the tokenizer's files; the ids of its special tokens, by their keys in config.json.

    The mask is named in tokenizer_config.json alone: transformers then gives it the id after all
    others, which is the graph's, and tokenizer.json keeps its bytes.
    """
    definition = (source / "tokenizer.json").read_bytes()
    found = Tokenizer.from_str(definition.decode())
    named = read_object(source / "tokenizer_config.json", "pad_token", "eos_token")
    special = {
        f"{kind}_token_id": found.token_to_id(named[f"{kind}_token"]) for kind in ("pad", "eos")
    }
    if config["graph"] == "absorb":
        free = (f"<mask{n or ''}>" for n in count())
        named["mask_token"] = next(name for name in free if found.token_to_id(name) is None)
        special["mask_token_id"] = found.get_vocab_size()
    named |= {
        "model_max_length": config["length"],
        "model_input_names": ["input_ids", "attention_mask"],
    }
    with whole(destination / "tokenizer.json") as partial:
        partial.write_bytes(definition)
    write_json(destination / "tokenizer_config.json", named)
    return special
