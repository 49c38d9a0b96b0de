"""Models of both graphs and parameterizations as checkpoints, and their exports."""

import torch
from reference_files import GOLDEN

from pipeline.checkpoints.checkpoint import save_checkpoint
from pipeline.checkpoints.reference.reading import build, read_published
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.methods.sedd.model import SEDD, SEDDConfig

CHARACTERS = "".join(map(chr, range(ord("A"), ord("A") + 60)))
PUBLISHED = ("absorb_loglinear", "absorb_pth", "uniform_geometric")


def conditional(graph: str, **more: bool) -> SEDD:
    """A model by x0 of random weights, none of them 0."""
    torch.manual_seed(0)
    config = SEDDConfig(
        graph=graph,
        noise="loglinear" if graph == "absorb" else "geometric",
        parameterization="conditional",
        vocab_size=16,
        length=8,
        width=8,
        num_blocks=2,
        num_heads=2,
        cond_dim=8,
        dropout=0.1,
        eps=1e-3 if graph == "absorb" else None,
        sigma_min=None if graph == "absorb" else 1e-3,
        sigma_max=None if graph == "absorb" else 8.0,
        t_min=1e-3,
        **more,
    )
    model = SEDD(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def models() -> dict[str, SEDD]:
    """Every golden fixture, which are raw scores, and one by x0 of each graph."""
    cpu = torch.device("cpu")
    raw = {name: build(read_published(GOLDEN / name), cpu) for name in PUBLISHED}
    by_x0 = {f"{graph}_conditional": conditional(graph) for graph in ("absorb", "uniform")}
    return raw | by_x0 | {"absorb_norm_bias": conditional("absorb", norm_bias=True)}


def write_checkpoint(folder, model: SEDD, text_lengths=None):
    """Write a model with a tokenizer of its size; its folder."""
    tokenizer = train_char_tokenizer([CHARACTERS[: model.config.vocab_size - 3]])
    tokenizer.save(folder / "tokenizer")
    save_checkpoint(
        folder / "model",
        model,
        tokenizer=folder / "tokenizer",
        tokenizer_sha256=tokenizer.sha256,
        text_lengths=text_lengths,
    )
    return folder / "model"
