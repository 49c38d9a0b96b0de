"""Many texts to one array of ids, as fast as the vocabulary allows and on any number of threads."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers.pre_tokenizers import ByteLevel

from pipeline.data.byte_level import (
    BETWEEN_WORDS,
    MOST_UNCUT,
    PART,
    byte_level,
    endless_word,
    merges_of,
    not_byte_level,
)
from pipeline.data.token_bytes import BYTES
from pipeline.data.tokenizer import TextTokenizer, checked

if TYPE_CHECKING:
    import tiktoken

Ids = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]

# How GPT-2 splits a text before it merges bytes, without backtracking where none can help.
SPLIT = (
    r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
    r"|\s++$|\s+(?!\S)|\s"
)
ANYWHERE, NOWHERE = re.compile(""), re.compile("(?!)")


class Encoder:
    """Gives the ids that `tokenizer` gives.

    A table holds them where each character is a token. tiktoken computes them for a byte-level BPE
    that it is proved to agree with (GPT-2's, and those trained here): three times as fast. Any
    other vocabulary is left to the tokenizers library.

    Attributes:
        tokenizer: which.
        uses_tiktoken: whether it does so here.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer
        self._table = _table_of(tokenizer)
        self._encoding = _tiktoken_of(tokenizer)
        self.uses_tiktoken = self._encoding is not None
        self._cut = BETWEEN_WORDS if self.uses_tiktoken else NOWHERE
        if self._table is not None:
            self._cut = ANYWHERE

    def parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Pieces of a text that have the ids which they have in it, and whether each is the last.

        Of about `PART` characters, where the text can be cut: however long it is, the memory that
        encoding takes is that of a piece.
        """
        start = 0
        while len(text) - start > PART and (match := self._cut.search(text, start + PART)):
            yield text[start : match.end()], False
            start = match.end()
        yield text[start:], True

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Ints]:
        """Ids of `texts` one after another [T], and how many each of them has [N].

        What a tokenizer of characters without unk does not know has its size for an id.

        Raises:
            DataError: a text holds half a surrogate pair, or too long a word for memory.
        """
        if self._table is not None:
            return self._table[_codes(texts)], np.array([len(text) for text in texts], np.int64)
        if self._encoding is None:
            lists = self.tokenizer.encode_batch(texts)
            lengths = np.array([len(ids) for ids in lists], np.int64)
            ids = np.fromiter(chain.from_iterable(lists), np.uint32, count=lengths.sum())
            return ids, lengths
        arrays = [self._encode_one(self._encoding, text) for text in texts]
        return np.concatenate(arrays), np.array([len(ids) for ids in arrays], np.int64)

    def _encode_one(self, encoding: "tiktoken.Encoding", text: str) -> Ids:
        long = len(text) > MOST_UNCUT
        if long and any(len(part) > MOST_UNCUT + PART for part, _ in self.parts(text)):
            raise endless_word()
        try:
            return encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError:
            # It gives up on a million spaces in a row, and knows no half of a surrogate pair: the
            # other library goes on with the first, `tokenizer` has a message for the second.
            return np.array(self.tokenizer.encode(text), np.uint32)


def _codes(texts: Sequence[str]) -> Ids:
    """The code point of each character."""
    return np.frombuffer("".join(checked(texts)).encode("utf-32-le"), np.dtype("<u4"))


def _table_of(tokenizer: TextTokenizer) -> Ids | None:
    """The id of each code point; None where a token is something else than a character."""
    if not tokenizer.is_of_characters:
        return None
    unknown = tokenizer.size if tokenizer.unk_id is None else tokenizer.unk_id
    table = np.full(sys.maxunicode + 1, unknown, np.uint32)
    for token, id in json.loads(tokenizer.definition)["model"]["vocab"].items():
        if len(token) == 1:
            table[ord(token)] = id
    return table


def _tiktoken_of(tokenizer: TextTokenizer) -> "tiktoken.Encoding | None":
    """tiktoken with the vocabulary of `tokenizer`, or None where ids might differ.

    Both split as GPT-2 does and then merge neighbours, first those that come first: the tokenizers
    library in its list of pairs, tiktoken by the id of what a pair spells. So they agree if ids
    are in the list's order, and no two neighbours that are no pair of the list ever spell a token.
    Such neighbours would come up as well when that token is encoded by itself, and nothing would
    join them then; so it is enough that every token is encoded as itself.
    """
    parts = json.loads(tokenizer.definition)
    if parts["model"]["type"] != "BPE" or not_byte_level(parts):
        return None
    specials = {token["content"] for token in parts["added_tokens"]}
    vocab: dict[str, int] = parts["model"]["vocab"]
    plain = {token: id for token, id in vocab.items() if token not in specials}
    merges = merges_of(parts)
    merged = [vocab[first + second] for first, second in merges]
    in_order = all(before < after for before, after in pairwise(merged))
    alphabet = set(ByteLevel.alphabet())
    if not in_order or len(plain) != 256 + len(merged) or not plain.keys() >= alphabet:
        return None
    model: Any = byte_level(vocab, merges).model
    if any(len(model.tokenize(token)) != 1 for token in plain):
        return None

    import tiktoken

    return tiktoken.Encoding(
        "byte-level",
        pat_str=SPLIT,
        mergeable_ranks={bytes(BYTES[c] for c in token): id for token, id in plain.items()},
        # It is slow without any. A special token spelled in a text is text all the same.
        special_tokens={token: vocab[token] for token in specials},
    )
