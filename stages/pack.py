"""Turn the documents of both splits into blocks of tokens."""

import sys
from pathlib import Path

import typer

from pipeline.config.params import load_params
from pipeline.data.packing import blocks_line, pack, unknown_line
from pipeline.data.splits import split_documents
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import reported


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


if __name__ == "__main__":
    typer.run(main)
