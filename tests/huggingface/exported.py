"""Models of both graphs and parameterizations as checkpoints, and their exports."""

import torch
from reference_files import GOLDEN
from toy import random_model, write_model

from pipeline.checkpoints.reference.reading import build, read_published
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.methods.sedd.model import SEDD

CHARACTERS = "".join(map(chr, range(ord("A"), ord("A") + 60)))
PUBLISHED = ("absorb_loglinear", "absorb_pth", "uniform_geometric")


def conditional(graph: str, **more: bool) -> SEDD:
    """A model by x0 of random weights, none of them 0."""
    noise = {"noise": "loglinear", "eps": 1e-3, "sigma_min": None, "sigma_max": None}
    if graph == "uniform":
        noise = {"noise": "geometric", "eps": None, "sigma_min": 1e-3, "sigma_max": 8.0}
    sizes = {"vocab_size": 16, "length": 8, "num_blocks": 2, "cond_dim": 8, "dropout": 0.1}
    usual = {"t_min": 1e-3, "scale_by_sigma": True}
    return random_model(graph, "conditional", **noise, **sizes, **usual, **more)


def models() -> dict[str, SEDD]:
    """Every golden fixture, which are raw scores, and one by x0 of each graph."""
    cpu = torch.device("cpu")
    raw = {name: build(read_published(GOLDEN / name), cpu) for name in PUBLISHED}
    by_x0 = {f"{graph}_conditional": conditional(graph) for graph in ("absorb", "uniform")}
    return raw | by_x0 | {"absorb_norm_bias": conditional("absorb", norm_bias=True)}


def write_checkpoint(folder, model: SEDD, text_lengths=None):
    """Write a model with a tokenizer of its size; its folder."""
    tokenizer = train_char_tokenizer([CHARACTERS[: model.config.vocab_size - 3]])
    return write_model(folder, model, tokenizer, text_lengths)
