"""`sedd import`: a checkpoint of the paper's reference implementation as one of this project."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import network
from pipeline.errors import CheckpointError, ParamsError, PipelineError, reported
from pipeline.hub import from_hub

if TYPE_CHECKING:
    from pipeline.data.tokenizer import TextTokenizer
    from pipeline.published.reading import Published

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json"]
HUB_ID = r"\w[\w.-]*/\w[\w.-]*"


@reported
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder, an Oxen repository (its path) or a Hugging Face id (ORG/NAME).",
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="Folder to make; it may be there if empty.")
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hugging Face id of the tokenizer.",
            show_default="SRC's own tokenizer.json; GPT-2's where it has none",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            help="Branch or commit of a repository or of a Hugging Face id.", show_default="main"
        ),
    ] = None,
) -> None:
    """Convert a published SEDD checkpoint, so that every command takes it as --model.

    Two layouts are read: config.json with model.safetensors or pytorch_model.bin, and config.yaml
    with checkpoint.pth, whose averaged weights are taken where it has them. Pickles are read for
    tensors and plain values only: they run no code.
    """
    destination = destination.resolve()
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise ParamsError(f"DST must be new or an empty folder (got {destination})")

    from pipeline.published.reading import read_published

    with _opened(source, revision) as folder:
        _refuse_own(folder)
        published = read_published(folder)
        text = _tokenizer(tokenizer, folder)
        vocab_size = published.config.vocab_size
        if text.size != vocab_size:
            raise CheckpointError(
                f"the tokenizer has {text.size} tokens, and the model was trained on {vocab_size}: "
                "give its own with --tokenizer"
            )
        _write(published, text, destination)
    config = published.config
    print(
        f"imported {source} to {destination}: {config.graph}, {config.noise}, "
        f"{sum(value.numel() for value in published.weights.values()):,} weights, "
        f"{vocab_size:,} tokens, texts of up to {config.length:,}"
    )


@contextmanager
def _opened(source: str, revision: str | None) -> Iterator[Path]:
    """A folder with the files of `source`; of a repository only while the context lasts."""
    path = Path(source).expanduser()
    if "://" in source or (path / ".oxen").is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            _fetch(source, revision or "main", Path(scratch))
            yield Path(scratch)
    elif path.exists():
        if revision is not None:
            raise ParamsError(f"--revision: {source} is a plain folder, it has none")
        yield path
    elif re.fullmatch(HUB_ID, source):
        from pipeline.published.reading import LAYOUTS

        files = sorted({name for layout in LAYOUTS for name in layout})
        advice = "give a folder or an Oxen repository that is there"
        yield from_hub(
            source, [*files, *TOKENIZER_FILES], key="SRC", instead=advice, revision=revision
        )
    else:
        raise PipelineError(
            f"SRC: there is no folder or Oxen repository {source}, nor is it a Hugging Face id, "
            "ORG/NAME"
        )


def _fetch(source: str, revision: str, folder: Path) -> None:
    """Copy the checkpoint's and the tokenizer's files from an Oxen repository."""
    from pipeline.published.reading import LAYOUTS
    from pipeline.remote.repository import named, open_repository

    with named("SRC"):
        repository = open_repository(
            source if "://" in source else str(Path(source).expanduser().resolve()), network()
        )
    with named("--revision"):
        commit = repository.resolve(revision)
    held = {entry.path for entry in repository.entries(commit)}
    layout = next((layout for layout in LAYOUTS if held.issuperset(layout)), ())
    wanted = [*layout, *(name for name in TOKENIZER_FILES if name in held)]
    if not layout:
        raise CheckpointError(
            f"no published checkpoint in {source} at {commit}: it has "
            f"{', '.join(sorted(held)) or 'nothing'}"
        )
    repository.fetch(commit, {name: name for name in wanted}, folder)


def _refuse_own(folder: Path) -> None:
    from pipeline.training.checkpoint import checkpoint_config

    try:
        checkpoint_config(folder)
    except CheckpointError:
        return
    raise CheckpointError(
        f"{folder} is a checkpoint of this project already: name it with --model or train.init"
    )


def _tokenizer(given: str | None, folder: Path) -> "TextTokenizer":
    from pipeline.data.gpt2 import read_tokenizer

    if given is None and (folder / "tokenizer.json").is_file():
        return read_tokenizer(folder)
    source = given or "gpt2"
    path = Path(source).expanduser()
    if not path.is_dir():
        advice = "give the folder of a tokenizer.json"
        path = from_hub(source, TOKENIZER_FILES, key="--tokenizer", instead=advice)
    return read_tokenizer(path)


def _write(published: "Published", tokenizer: "TextTokenizer", destination: Path) -> None:
    import torch

    from pipeline.published.reading import build
    from pipeline.remote.folders import in_place_of
    from pipeline.training.checkpoint import save_checkpoint

    with tempfile.TemporaryDirectory() as scratch, in_place_of(destination) as folder:
        tokenizer.save(Path(scratch))
        save_checkpoint(
            folder,
            build(published, torch.device("cpu")),
            tokenizer=Path(scratch),
            tokenizer_sha256=tokenizer.sha256,
        )
