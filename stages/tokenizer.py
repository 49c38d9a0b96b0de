"""Learn the tokenizer from the training split."""

from pathlib import Path

import typer

from pipeline.data.corpus import read_documents
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import reported
from pipeline.params import load_params


@reported
def main(data: Path, tokenizer: Path) -> None:
    """Write `tokenizer`, the folder that transformers can load, from the files in `data`."""
    params = load_params()
    documents = read_documents(data / params.data.files.train, params.data.column)
    train_char_tokenizer(documents).save(tokenizer)


if __name__ == "__main__":
    typer.run(main)
