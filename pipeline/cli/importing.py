"""`sedd import`: a published checkpoint, of the paper's code or of this project, as a folder."""

import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import new_folder, patience
from pipeline.errors import CheckpointError, DataError, ParamsError, PipelineError, reported
from pipeline.files import expanded
from pipeline.hub import HUB_ID, from_hub
from pipeline.table import shown

if TYPE_CHECKING:
    from pipeline.data.tokenizer import TextTokenizer
    from pipeline.methods.protocol import Model

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json"]
OWN = re.compile(r"checkpoints/[0-9a-f]{16}/")
"""Where `publish.checkpoint` puts each checkpoint."""


@reported
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder, a .ckpt file, an Oxen repository (its address or path) or a Hugging "
            "Face id (ORG/NAME).",
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
    path: Annotated[
        str | None,
        typer.Option(
            help="Folder of the checkpoint within an Oxen repository.",
            show_default="its root, else the only one in checkpoints/",
        ),
    ] = None,
) -> None:
    """Convert a published SEDD, RADD or MDLM checkpoint, so that every command takes it as --model.

    Three layouts are read: config.json with model.safetensors or pytorch_model.bin, config.yaml
    with checkpoint.pth, and a .ckpt of Lightning; averaged weights are taken where there are some.
    Pickles are read for tensors and plain values only: they run no code. What `sedd export` has
    written is taken back, its code not run; what `publish.checkpoint` has published to an Oxen
    repository is checked and copied as it is.
    """
    destination = new_folder(destination)

    from pipeline.checkpoints.checkpoint import is_checkpoint
    from pipeline.huggingface.export import is_export

    with _opened(source, revision, path) as folder:
        if is_export(folder):
            if tokenizer is not None:
                raise ParamsError(f"--tokenizer: the export in {source} has its own")
            about = _take_back(folder, destination)
        elif is_checkpoint(folder):
            if not _is_repository(source):
                raise CheckpointError(
                    f"{folder} is a checkpoint of this project already: name it with --model or "
                    "train.init"
                )
            if tokenizer is not None:
                raise ParamsError(f"--tokenizer: the checkpoint in {source} has its own")
            about = _copy_own(folder, destination)
        else:
            about = _convert(folder, tokenizer, destination)
    print(shown(f"imported {source} to {destination}: {about}"))


def _convert(folder: Path, tokenizer: str | None, destination: Path) -> str:
    """Write a published checkpoint as one of this project; what it is, in words."""
    import torch

    from pipeline.checkpoints.checkpoint import save_checkpoint
    from pipeline.checkpoints.reference.reading import build, read_published
    from pipeline.files import scratch_folder
    from pipeline.oxen.folders import in_place_of

    published = read_published(folder)
    text = _tokenizer(tokenizer, folder)
    vocab_size = published.config.vocab_size
    if text.size != vocab_size:
        raise CheckpointError(
            f"the tokenizer has {text.size} tokens, and the model was trained on {vocab_size}: "
            "give its own with --tokenizer"
        )
    model = build(published, torch.device("cpu"))
    with scratch_folder() as scratch, in_place_of(destination) as partial:
        text.save(scratch)
        save_checkpoint(
            partial,
            model,
            tokenizer=scratch,
            tokenizer_sha256=text.sha256,
        )
    return _about(model)


def _copy_own(folder: Path, destination: Path) -> str:
    """Copy a checkpoint of this project that every command can take; what it is, in words."""
    import torch

    from pipeline.cli.model import load_model
    from pipeline.oxen.folders import in_place_of

    model, _ = load_model(folder, torch.device("cpu"))
    with in_place_of(destination) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True)
    return _about(model)


def _take_back(folder: Path, destination: Path) -> str:
    """Write an export as the checkpoint it was made of; what it is, in words."""
    import torch

    from pipeline.cli.model import load_model
    from pipeline.huggingface.taking_back import take_back
    from pipeline.oxen.folders import in_place_of

    with in_place_of(destination) as partial:
        take_back(folder, partial)
        try:
            model, _ = load_model(partial, torch.device("cpu"))
        except (CheckpointError, DataError) as error:
            # Who reads it knows the export, not what is being made of it.
            raise CheckpointError(str(error).replace(str(partial), str(folder))) from None
    return _about(model)


def _about(model: "Model") -> str:
    config, num_weights = model.config.asdict(), sum(p.numel() for p in model.network.parameters())
    kind = ", ".join(config[key] for key in ("method", "graph", "noise") if key in config)
    return (
        f"{kind}, {num_weights:,} weights, {config['vocab_size']:,} tokens, "
        f"texts of up to {config['length']:,}"
    )


def _is_repository(source: str) -> bool:
    return "://" in source or (expanded(source) / ".oxen").is_dir()


@contextmanager
def _opened(source: str, revision: str | None, path: str | None) -> Iterator[Path]:
    """A folder with the files of `source`; of a repository only while the context lasts."""
    plain = expanded(source)
    if _is_repository(source):
        from pipeline.files import scratch_folder

        with scratch_folder() as scratch:
            yield _fetch(source, revision, path, scratch)
    elif path is not None:
        raise ParamsError(f"--path: {source} is no Oxen repository")
    elif plain.exists():
        if revision is not None:
            raise ParamsError(f"--revision: {source} is a plain folder, it has none")
        yield plain
    elif HUB_ID.fullmatch(source):
        from pipeline.checkpoints.reference.reading import LAYOUTS

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


def _fetch(source: str, revision: str | None, path: str | None, scratch: Path) -> Path:
    """The folder in `scratch` with the checkpoint's and the tokenizer's files of a repository."""
    from pipeline.checkpoints.reference.reading import LAYOUTS
    from pipeline.oxen.opening import open_repository
    from pipeline.oxen.repository import named

    with named("SRC"):
        repository = open_repository(
            source if "://" in source else str(expanded(source).resolve()), patience()
        )
    with named("--revision" if revision else "SRC"):
        commit = repository.resolve(revision or "main")
    held = {entry.path for entry in repository.entries(commit)}
    if path is not None:
        where = f"{path.strip('/')}/"
    elif any(held.issuperset(layout) for layout in LAYOUTS):
        where = ""
    else:
        where = _only(held, f"{source} at {commit}")
    names = {name.removeprefix(where) for name in held if name.startswith(where)}
    layout = next((layout for layout in LAYOUTS if names.issuperset(layout)), ())
    if not layout:
        place = f"{where}{' of ' if where else ''}{source}"
        raise CheckpointError(
            f"no published checkpoint in {place} at {commit}: it has "
            f"{', '.join(sorted(names)) or 'nothing'}"
        )
    texts = [name for name in names if name in TOKENIZER_FILES or name.startswith("tokenizer/")]
    repository.fetch(commit, {name: f"{where}{name}" for name in (*layout, *texts)}, scratch)
    return scratch / where


def _only(held: Collection[str], place: str) -> str:
    """Start of the paths of the only checkpoint that `publish.checkpoint` put; "" without any."""
    folders = sorted({match[0] for match in map(OWN.match, held) if match})
    if len(folders) > 1:
        listed = ", ".join(folder.rstrip("/") for folder in folders)
        raise CheckpointError(f"{place} has several checkpoints: name one with --path ({listed})")
    return folders[0] if folders else ""


def _tokenizer(given: str | None, folder: Path) -> "TextTokenizer":
    from pipeline.data.gpt2 import read_tokenizer

    if given is None and (folder / "tokenizer.json").is_file():
        return read_tokenizer(folder)
    source = given or "gpt2"
    path = expanded(source)
    if not path.is_dir():
        advice = "give the folder of a tokenizer.json"
        path = from_hub(source, TOKENIZER_FILES, key="--tokenizer", instead=advice)
    return read_tokenizer(path)
