"""Turn the documents of both splits into blocks of tokens."""

import sys
from pathlib import Path

import typer

from pipeline.data.corpus import read_documents
from pipeline.data.packing import Meta, pack
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import reported
from pipeline.params import load_params


@reported
def main(data: Path, tokenizer: Path, packed: Path) -> None:
    """Write `packed`, the folder of blocks, from the files in `data`."""
    params = load_params()
    files = {"train": params.data.files.train, "test": params.data.files.test}
    meta = pack(
        packed,
        {split: read_documents(data / name, params.data.column) for split, name in files.items()},
        TextTokenizer.load(tokenizer),
        mode=params.pack.mode,
        length=params.pack.length,
    )
    if any(meta.num_unknown.values()):
        print(unknown_line(meta), file=sys.stderr)


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
