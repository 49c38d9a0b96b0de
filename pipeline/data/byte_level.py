"""Byte-level BPE, as GPT-2's: text is split, its bytes merged pair by pair, none is unknown."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, FixedLength
from tokenizers.pre_tokenizers import Sequence as InTurn
from tokenizers.trainers import BpeTrainer

from pipeline.data.tokenizer import EOS, PAD, TextTokenizer
from pipeline.errors import DataError

LONGEST_WORD = 256
"""Bytes of a word that are learned from together: merging takes the square of its length."""
# Where a text can be split in two without any word changing: before a single space or line's end.
BETWEEN_WORDS = re.compile(r"(?<=\S)(?=\s\S)")
PART = 2**18
"""Characters of a long text that are held in pieces at once, where it can be cut."""
MOST_UNCUT = 2**23
"""Characters without such a place that are learned from, and encoded: 80 bytes of memory each."""


def train_bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> TextTokenizer:
    """Merge the commonest pairs of `texts`: pad 0, eos 1, the 256 bytes, then the merges in order.

    The same texts give the same tokenizer, of fewer than `vocab_size` ids where no pair that is
    left occurs twice.

    Raises:
        DataError: a text holds half a surrogate pair, or a word without end.
    """
    tokenizer = byte_level({}, [])
    split = tokenizer.pre_tokenizer
    tokenizer.pre_tokenizer = InTurn([split, FixedLength(LONGEST_WORD)])
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, EOS],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    try:
        tokenizer.train_from_iterator(pieces(texts, BETWEEN_WORDS, PART, MOST_UNCUT), trainer)
    except UnicodeEncodeError as error:
        raise DataError(f"a document is not valid Unicode text: {error}") from None
    tokenizer.pre_tokenizer = split
    return TextTokenizer(tokenizer.to_str(pretty=True), pad=PAD, eos=EOS, unk=None)


def pieces(
    texts: Iterable[str], between: re.Pattern[str], part: int, most: int | None = None
) -> Iterator[str]:
    """The texts, long ones cut `between` words, or after 2 * `part` characters where none ends.

    Raises:
        DataError: words do not end within `most` characters.
    """
    for text in texts:
        start = uncut = 0
        while len(text) - start > 2 * part:
            cut = between.search(text, start + part, start + 2 * part)
            end = cut.end() if cut else start + 2 * part
            uncut = 0 if cut else uncut + end - start
            if most is not None and uncut > most:
                raise endless_word()
            yield text[start:end]
            start = end
        yield text[start:]


def endless_word() -> DataError:
    """The error that a text has more than `MOST_UNCUT` characters between words, to be raised."""
    return DataError(
        f"a document has more than {MOST_UNCUT:,} characters in which no word ends, and memory "
        "holds no more of them: break it into lines, or set tokenizer.kind to char"
    )


def byte_level(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """A tokenizer that splits, merges and decodes as GPT-2's does, with another vocabulary."""
    tokenizer = Tokenizer(BPE(dict(vocab), list(merges)))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def merges_of(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges in a tokenizer.json that the library wrote, first merged first."""
    return [(first, second) for first, second in parts["model"]["merges"]]


def not_byte_level(parts: Mapping[str, Any]) -> list[str]:
    """The parts of a tokenizer.json that split or merge text in another way than GPT-2's do."""
    model, split = parts["model"], parts["pre_tokenizer"] or {}
    wrong = {
        "model": model["type"] != "BPE"
        or any(model[key] for key in ("dropout", "ignore_merges", "byte_fallback"))
        or any(model[key] for key in ("continuing_subword_prefix", "end_of_word_suffix")),
        "normalizer": parts["normalizer"] is not None,
        "pre_tokenizer": split.get("type") != "ByteLevel"
        or split["add_prefix_space"]
        or not split["use_regex"],
    }
    return [name for name in wrong if wrong[name]]
