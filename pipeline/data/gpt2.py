"""GPT-2's tokenizer: byte-level BPE, so that every text can be encoded."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from pipeline.data.byte_level import byte_level, merges_of, not_byte_level
from pipeline.data.tokenizer import TextTokenizer, parsed, small_text
from pipeline.errors import DataError
from pipeline.files import from_root
from pipeline.hub import from_hub

END_OF_TEXT = "<|endoftext|>"
GPT2 = "98de00669996e48e8db9590e7c13d37461bb11178e80fa2abcafb3e49f542baf"
"""SHA-256 of GPT-2's own vocabulary and merges, as `encoding_sha256` takes it."""


def fetch_gpt2_tokenizer(source: str) -> TextTokenizer:
    """GPT-2's tokenizer from `source`, a folder or a Hugging Face id.

    Raises:
        PipelineError: neither is there.
        DataError: what is there is no byte-level BPE as GPT-2's.
    """
    folder = from_root(source)
    if not folder.is_dir():
        advice = "give the folder of a tokenizer.json"
        folder = from_hub(source, ["tokenizer.json"], key="tokenizer.source", instead=advice)
    return read_gpt2_tokenizer(folder)


def read_gpt2_tokenizer(folder: Path) -> TextTokenizer:
    """GPT-2's tokenizer from the tokenizer.json in `folder`: byte-level BPE, so without unk.

    It is put together anew, so that files that differ only in what does not matter to the ids
    give the same tokenizer, and the same hash.

    Raises:
        DataError: the file is missing or damaged, or encodes in another way.
    """
    path = folder / "tokenizer.json"
    found = parsed(small_text(path), str(path))
    parts = json.loads(found.to_str())
    if wrong := not_byte_level(parts):
        raise DataError(f"{path} does not encode as GPT-2 does: its {', '.join(wrong)} is another")
    vocab = parts["model"]["vocab"]
    if not {*ByteLevel.alphabet(), END_OF_TEXT} <= set(vocab):
        raise DataError(f"{path} lacks {END_OF_TEXT} or some of the 256 bytes")
    tokenizer = byte_level(vocab, merges_of(parts))
    tokenizer.add_special_tokens([END_OF_TEXT])
    if tokenizer.get_vocab() != found.get_vocab():
        raise DataError(f"{path} adds tokens to its vocabulary; GPT-2's has only {END_OF_TEXT}")
    return TextTokenizer(tokenizer.to_str(), pad=END_OF_TEXT, eos=END_OF_TEXT, unk=None)


def read_tokenizer(folder: Path) -> TextTokenizer:
    """GPT-2's tokenizer in whatever form, or one that `TextTokenizer.save` wrote.

    Raises:
        DataError: a file is missing or damaged, or it is some other tokenizer.
    """
    path = folder / "tokenizer.json"
    if path.is_file() and END_OF_TEXT.encode() in path.read_bytes():
        return read_gpt2_tokenizer(folder)
    return TextTokenizer.load(folder)


def is_gpt2(tokenizer: TextTokenizer) -> bool:
    """Whether it gives every text the ids that GPT-2's own tokenizer gives it."""
    parts = json.loads(tokenizer.definition)
    return not not_byte_level(parts) and encoding_sha256(parts) == GPT2


def encoding_sha256(parts: dict[str, Any]) -> str:
    """SHA-256 in hex of the vocabulary and the merges of a byte-level tokenizer.json."""
    content = [sorted(parts["model"]["vocab"].items()), merges_of(parts)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
