"""Turn the documents of both splits into blocks of tokens."""

import sys
from pathlib import Path

import typer

from pipeline.config.params import load_params
from pipeline.data.packed import check_comparable
from pipeline.data.packing import blocks_line, pack, unknown_line
from pipeline.data.splits import Empty, Repeats, split_documents
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import reported


@reported
def main(data: Path, tokenizer: Path, packed: Path) -> None:
    """Write `packed`, the folder of blocks, from the files in `data`."""
    params = load_params()
    train = split_documents(data, "train", params.data)
    test = split_documents(data, "test", params.data)
    # Without files of its own, a split is one by the text of each document.
    again = split_documents(data, "test", params.data) if params.data.files.test else ()
    repeats, empty = Repeats(again), Empty()
    meta = pack(
        packed,
        {
            "train": empty.watching("train", repeats.watching(train)),
            "test": empty.watching("test", test),
        },
        TextTokenizer.load(tokenizer),
        mode=params.pack.mode,
        length=params.pack.length,
    )
    check_comparable(meta.num_blocks["test"], params.sample.num)
    if repeated := repeats.line():
        print(repeated, file=sys.stderr)
    if said := empty.line():
        print(said, file=sys.stderr)
    if meta.mode == "concat":
        print(blocks_line(meta), file=sys.stderr)
    if any(meta.num_unknown.values()):
        print(unknown_line(meta), file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
