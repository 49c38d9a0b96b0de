"""Checkpoints of random weights in the layouts of the reference implementation."""

import json
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from pipeline.checkpoints.reference.config import read_config
from pipeline.data.gpt2 import END_OF_TEXT
from pipeline.methods.sedd.model import SEDD

GOLDEN = Path(__file__).parent / "golden"
SHARED_GPT2 = Path(__file__).parents[2] / "shared" / "data" / "gpt2"

TINY = {"hidden_size": 8, "cond_dim": 8, "length": 8, "n_blocks": 2, "n_heads": 2}
# The small model's vocabulary and length, with almost no network between them.
NARROW = {"hidden_size": 32, "cond_dim": 128, "length": 1024, "n_blocks": 1, "n_heads": 2}
SMALL = {"hidden_size": 768, "cond_dim": 128, "length": 1024, "n_blocks": 12, "n_heads": 12}


def config_of(
    sizes: dict[str, int], tokens: int, graph: str = "absorb", noise: str = "loglinear"
) -> dict[str, Any]:
    """A config as the reference writes it, with sections that say nothing of the model."""
    return {
        "ngpus": 8,
        "tokens": tokens,
        "training": {"ema": 0.9999, "n_iters": 1300001},
        "data": {"train": "openwebtext", "valid": "wikitext103"},
        "graph": {"type": graph, "file": "data", "report_all": False},
        "noise": {"type": noise, "sigma_min": 1e-4, "sigma_max": 20},
        "sampling": {"predictor": "euler", "steps": 128},
        "model": {
            "name": "small",
            "type": "ddit",
            "scale_by_sigma": graph == "absorb",
            "dropout": 0.1,
            **sizes,
        },
    }


def random_model(config: dict[str, Any], folder: Path, seed: int = 0) -> SEDD:
    """A model of random weights, none of them 0."""
    path = folder / "model-config.json"
    path.write_text(json.dumps(config))
    torch.manual_seed(seed)
    model = SEDD(read_config(path).config).eval()
    path.unlink()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def write_published(
    folder: Path, layout: str, config: dict[str, Any], *, prefix: str = "", ema: bool = False
) -> SEDD:
    """Write a checkpoint and return the model that it should be read as.

    Args:
        layout: `safetensors`, `bin`, `pth` (all of a training state) or `bare` (a .pth of weights).
        prefix: before each name.
        ema: averaged weights of their own (`pth` only); else the raw ones are the model's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = random_model(config, folder)
    raw = random_model(config, folder, seed=1) if ema else model
    weights = {f"{prefix}{name}": value for name, value in raw.network.state_dict().items()}
    if layout in ("safetensors", "bin"):
        (folder / "config.json").write_text(json.dumps(config))
    else:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if layout == "safetensors":
        save_file(weights, folder / "model.safetensors")
    elif layout == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    elif layout == "bare":
        torch.save(weights, folder / "checkpoint.pth")
    else:
        state: dict[str, Any] = {"optimizer": {"state": {}}, "model": weights, "step": 7}
        if ema:
            averaged = [parameter.detach().clone() for parameter in model.network.parameters()]
            state["ema"] = {"decay": 0.9999, "num_updates": 7, "shadow_params": averaged}
        torch.save(state, folder / "checkpoint.pth")
    return model


def write_byte_level(folder: Path, num_merges: int) -> Path:
    """tokenizer.json of a byte-level BPE of 257 + num_merges tokens; 50,000 make GPT-2's size."""
    alphabet = sorted(ByteLevel.alphabet())
    merges = list(islice(product(alphabet, alphabet), num_merges))
    tokens = [*alphabet, *(first + second for first, second in merges), END_OF_TEXT]
    tokenizer = Tokenizer(BPE({token: id for id, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([END_OF_TEXT])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
