"""Turn the documents of both splits into blocks of tokens."""

import sys
from pathlib import Path

import typer

from pipeline.data.packed import Meta
from pipeline.data.packing import pack
from pipeline.data.splits import split_documents
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import reported
from pipeline.params import load_params


@reported
def main(data: Path, tokenizer: Path, packed: Path) -> None:
    """Write `packed`, the folder of blocks, from the files in `data`."""
    params = load_params()
    meta = pack(
        packed,
        {
            "train": split_documents(data, "train", params.data),
            "test": split_documents(data, "test", params.data),
        },
        TextTokenizer.load(tokenizer),
        mode=params.pack.mode,
        length=params.pack.length,
    )
    if meta.mode == "concat":
        print(blocks_line(meta), file=sys.stderr)
    if any(meta.num_unknown.values()):
        print(unknown_line(meta), file=sys.stderr)


def blocks_line(meta: Meta) -> str:
    """How many blocks the running text of each split fills, and what was left of it."""
    blocks, dropped = (
        ", ".join(f"{split} {num:,}" for split, num in counts.items())
        for counts in (meta.num_blocks, meta.num_dropped)
    )
    return (
        f"blocks of {meta.length:,} tokens: {blocks}; "
        f"tokens at the end that fill no block, dropped: {dropped}"
    )


def unknown_line(meta: Meta) -> str:
    """The characters that became unk and how often, for each split that has any."""
    splits = (
        f"{split} {meta.num_unknown[split]} ("
        + ", ".join(f"{character!r} {count}" for character, count in counts.items())
        + ")"
        for split, counts in meta.unknown.items()
        if counts
    )
    return "unknown characters became <unk>: " + "; ".join(splits)


if __name__ == "__main__":
    typer.run(main)
