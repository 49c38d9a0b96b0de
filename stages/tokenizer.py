"""Learn the tokenizer from the training split, or take GPT-2's."""

from pathlib import Path

from pipeline.config.params import load_params
from pipeline.data.byte_level import train_bpe_tokenizer
from pipeline.data.gpt2 import fetch_gpt2_tokenizer
from pipeline.data.sentencepiece import sentencepiece_tokenizer, train_sentencepiece
from pipeline.data.splits import split_documents, stream
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import reported
from pipeline.files import whole
from pipeline.progress import progress
from stages import run


@reported
def main(data: Path, tokenizer: Path) -> None:
    """Write `tokenizer`, the folder that transformers can load, from the files in `data`."""
    params = load_params()
    if params.tokenizer.kind == "gpt2":
        fetch_gpt2_tokenizer(params.tokenizer.source).save(tokenizer)
        return
    streams = params.pack.mode == "stream"
    training = (stream if streams else split_documents)(data, "train", params.data)
    documents = progress(training, desc="learn tokens", unit="document", delay=2)
    if params.tokenizer.kind == "bpe":
        train_bpe_tokenizer(documents, params.tokenizer.vocab_size).save(tokenizer)
    elif params.tokenizer.kind == "sentencepiece":
        pieces = params.tokenizer.sentencepiece
        model = train_sentencepiece(documents, params.tokenizer.vocab_size, pieces)
        sentencepiece_tokenizer(model, pieces.model_type).save(tokenizer)
        with whole(tokenizer / "sentencepiece.model") as partial:
            partial.write_bytes(model)
    else:
        train_char_tokenizer(documents, special=not streams).save(tokenizer)


if __name__ == "__main__":
    run(main)
