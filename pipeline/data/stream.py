"""One text without ends as windows: training on any of them, evaluation on neighbouring ones."""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from pipeline.data.encoding import Encoder
from pipeline.data.packed import EVAL, Meta
from pipeline.data.packing import described, write_pieces
from pipeline.data.pieces import Packer, num_cores
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import DataError
from pipeline.files import sha256, whole


def pack_stream(
    folder: Path,
    texts: Mapping[str, Iterable[str]],
    tokenizer: TextTokenizer,
    *,
    length: int,
    holdout: float,
) -> Meta:
    """Write one text a split to `folder` as tokens, with nothing between or around blocks.

    Training draws any window of `length` neighbouring tokens of its split. The others are cut into
    blocks one after another; the tail that fills none is dropped.

    Args:
        texts: pieces of the texts of "train" and "test"; "train" alone is cut by position, as text8
            is: its last `holdout` are "test", and as many before these "eval", which training looks
            at meanwhile.
    Returns:
        What meta.json holds.
    Raises:
        DataError: a text holds a character that the tokenizer does not know, or a split fills no
            block. Nothing is written then.
    """
    packer = Packer(Encoder(tokenizer), "stream", length)
    with ExitStack() as files:
        # Left last, so that meta.json appears when the blocks are there.
        partial_meta = files.enter_context(whole(folder / "meta.json"))
        splits = ["train", "test"] if "test" in texts else ["train", EVAL, "test"]
        paths = {split: files.enter_context(whole(folder / f"{split}.bin")) for split in splits}
        pieces = packer.pieces(texts, num_cores())
        seen = write_pieces(pieces, {split: paths[split] for split in texts})
        sizes = {split: counts.num_tokens for split, counts in seen.items()}
        if EVAL in splits:
            sizes = _hold_out(paths, sizes["train"], holdout, packer.dtype.itemsize)
        for split in splits:
            _check_size(split, sizes[split], length)
            with paths[split].open("rb+") as file:
                kept = sizes[split] if split == "train" else sizes[split] // length * length
                file.truncate(kept * packer.dtype.itemsize)
        hashes = {split: sha256(path) for split, path in paths.items()}
        evaluated = {split: size for split, size in sizes.items() if split != "train"}
        windows = {"train": sizes["train"] - length + 1}
        meta = described(
            packer,
            hashes,
            num_blocks=windows | {split: size // length for split, size in evaluated.items()},
            num_dropped={"train": 0} | {split: size % length for split, size in evaluated.items()},
            lengths=None,
            unknown={split: Counter[str]() for split in sizes},
            labels={},
        )
        meta.write(folder, partial_meta)
    return meta


def _hold_out(paths: Mapping[str, Path], num: int, share: float, item: int) -> dict[str, int]:
    """Copy the ends of the train file, of `num` tokens of `item` bytes; tokens of each split."""
    each = round(share * num)
    sizes = {"train": num - 2 * each, EVAL: each, "test": each}
    for split, first in (EVAL, num - 2 * each), ("test", num - each):
        with paths["train"].open("rb") as file, paths[split].open("wb") as copy:
            file.seek(first * item)
            shutil.copyfileobj(file, copy)
    return sizes


def _check_size(split: str, size: int, length: int) -> None:
    if size < length:
        raise DataError(
            f"the {split} split has {size:,} characters, which do not fill one block: lower "
            f"pack.length (got {length})"
        )
