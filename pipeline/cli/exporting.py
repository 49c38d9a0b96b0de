"""`sedd export`: a model as a folder that transformers loads, and to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import new_folder
from pipeline.errors import ParamsError, reported
from pipeline.hub import HUB_ID, to_hub
from pipeline.table import shown


@reported
def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of the model and its tokenizer.")
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="Folder to make; it may be there if empty.")
    ],
    license: Annotated[
        str,
        typer.Option(help="Of the weights, as the hub spells it: mit, apache-2.0. Never guessed."),
    ],
    name: Annotated[
        str | None, typer.Option(help="Of the model, in its card.", show_default="DST's name")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="ORG/NAME", help="Also send it there, on the Hugging Face hub."),
    ] = None,
) -> None:
    """Write a SEDD model as a folder that anyone loads with transformers, without this project.

    It holds weights, tokenizer, one file of code and a model card, whose figures are those of this
    project's last run if they are the model's. AutoModel gives the score, AutoModelForMaskedLM the
    logits behind masks; both have `sample`, which also infills. `sedd import` takes it back.
    """
    import torch

    from pipeline.checkpoints.checkpoint import weights_sha256
    from pipeline.cli.model import load_model
    from pipeline.huggingface.card import Card
    from pipeline.huggingface.evaluated import data_and_results
    from pipeline.huggingface.export import write_export

    destination = new_folder(destination)
    if push is not None and not HUB_ID.fullmatch(push):
        raise ParamsError(f"--push must be a Hugging Face id, ORG/NAME (got {push})")
    load_model(model, torch.device("cpu"))
    known = data_and_results(weights_sha256(model))
    write_export(model, destination, Card(name or destination.name, license, *known))
    size = sum(path.stat().st_size for path in destination.iterdir())
    print(shown(f"exported {model} to {destination}: {size:,} bytes"))
    if push is not None:
        print(shown(f"sent to {to_hub(destination, push, key='--push')}"))
