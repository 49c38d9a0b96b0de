"""Turn the documents of both splits into blocks of tokens."""

import sys
from pathlib import Path
from typing import get_args

import typer

from pipeline.config.params import load_params
from pipeline.data.packed import check_comparable
from pipeline.data.packing import blocks_line, pack, unknown_line
from pipeline.data.splits import Empty, Split, split_documents
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import reported
from pipeline.table import shown


@reported
def main(data: Path, tokenizer: Path, packed: Path) -> None:
    """Write `packed`, the folder of blocks, from the files in `data`."""
    params = load_params()
    empty = Empty()
    meta = pack(
        packed,
        {
            split: empty.watching(split, split_documents(data, split, params.data))
            for split in get_args(Split)
        },
        TextTokenizer.load(tokenizer),
        mode=params.pack.mode,
        length=params.pack.length,
    )
    check_comparable(meta.num_blocks["test"], params.sample.num)
    if said := empty.line():
        print(shown(said), file=sys.stderr)
    if meta.mode == "concat":
        print(blocks_line(meta), file=sys.stderr)
    if any(meta.num_unknown.values()):
        print(shown(unknown_line(meta)), file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
