"""A trained model with its tokenizer, and texts as the blocks it takes."""

from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import category

from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.errors import CheckpointError, DataError

if TYPE_CHECKING:
    import torch

    from pipeline.methods.protocol import Model


def load_model(folder: Path, device: "torch.device") -> "tuple[Model, TextTokenizer]":
    """The model in `folder`, in eval mode on `device`, and the tokenizer it was trained with.

    Raises:
        CheckpointError: there is no model, it is damaged, or its tokenizer is another one.
        DataError: the tokenizer is missing or damaged.
    """
    from pipeline.checkpoints.checkpoint import check_tokenizer, load_checkpoint

    tokenizer = load_tokenizer(folder)
    check_tokenizer(folder, tokenizer.sha256)
    model = load_checkpoint(folder, device)
    if tokenizer.size != model.config.vocab_size:
        raise CheckpointError(
            f"{folder}: vocab_size is {model.config.vocab_size}, and the tokenizer has "
            f"{tokenizer.size} tokens"
        )
    return model, tokenizer


def load_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer of the model in `folder`.

    Raises:
        CheckpointError: there is no model.
        DataError: the tokenizer is missing or damaged.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"no model in {folder}: name its folder with --model, or train one with `dvc repro`"
        )
    return TextTokenizer.load(folder / "tokenizer")


def block_of(text: str, tokenizer: TextTokenizer, length: int, mode: Mode) -> list[int]:
    """`text` as `length` ids: its tokens, eos, then pad; of running text as far as the eos, if any.

    Raises:
        DataError: the tokenizer does not know a character, or the text is too long.
    """
    ids = tokenizer.encode_known(text)
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    most = length - len(end)
    if len(ids) > most:
        raise DataError(
            f"the text has {len(ids)} tokens; a block of this model holds at most {most}"
            + " and their eos" * len(end)
        )
    pad = [] if tokenizer.pad_id is None or mode != "pad" else [tokenizer.pad_id]
    return [*ids, *end, *pad * (most - len(ids))]


def one_line(text: str) -> str:
    r"""`text` with line ends, other control characters and backslashes escaped: \n, \x1b, \\."""
    return "".join(
        character.encode("unicode_escape").decode()
        if character == "\\" or (character != "\t" and category(character) in ("Cc", "Zl", "Zp"))
        else character
        for character in text
    )
