"""The rows of an evaluation set: detokenized, and as ids; no row is dropped, blank ones neither."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.corpus import read_documents
from pipeline.data.gpt2 import is_gpt2
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import DataError
from pipeline.zeroshot.blocks import Ints
from pipeline.zeroshot.detokenizers import detokenized
from pipeline.zeroshot.protocols import PROTOCOLS

WORD_LEVEL = " <unk> "
AT_ONCE = 1000
"""Rows that are encoded together."""


@dataclass(frozen=True)
class Texts:
    """Rows as they are scored.

    Attributes:
        rows: each detokenized.
        num_words: of the rows as they came, apart by blanks.
    """

    rows: list[str]
    num_words: int


def read_texts(path: Path, column: str, detokenizer: str, *, key: str) -> Texts:
    """Every row in `column` of a file, in order.

    Args:
        key: what named the column, for messages.
    Raises:
        DataError: the file is missing, damaged, or has no such column; or it is WikiText's
            word-level file, which no table is of.
    """
    rows, num_words = [], 0
    try:
        for place, row in enumerate(read_documents(path, column)):
            if detokenizer == "wikitext" and WORD_LEVEL in row:
                raise DataError(
                    f"{path}: row {place} holds <unk>: this is WikiText's word-level file, and the "
                    "papers score its raw one (wikitext-2-raw-v1, wikitext-103-raw-v1)"
                )
            num_words += len(row.split())
            rows.append(detokenized(row, detokenizer))
    except DataError as error:
        raise DataError(*(line.replace("data.column", key) for line in error.args)) from None
    return Texts(rows, num_words)


def encoded(texts: Texts, tokenizer: TextTokenizer) -> list[Ints]:
    """The ids of each row.

    Raises:
        DataError: a row is not in its ids: what they cost is not what the text costs.
    """
    lengths = np.array(tokenizer.byte_lengths())
    documents: list[Ints] = []
    for first in range(0, len(texts.rows), AT_ONCE):
        rows = texts.rows[first : first + AT_ONCE]
        documents += [np.array(ids, np.int32) for ids in tokenizer.encode_batch(rows)]
    for place, (row, ids) in enumerate(zip(texts.rows, documents, strict=True)):
        if lengths[ids].sum() != len(row.encode()):
            unknown = ", ".join(map(repr, dict.fromkeys(tokenizer.unknown(row)[:5])))
            raise DataError(
                f"row {place} holds what this tokenizer does not know ({unknown}), so that its "
                "likelihood is not that of the text: take a tokenizer of bytes (bpe, gpt2)"
            )
    return documents


def eos_of(tokenizer: TextTokenizer) -> int:
    """What closes a row.

    Raises:
        DataError: nothing does.
    """
    if tokenizer.eos_id is None:
        raise DataError(
            "the tokenizer has no end of text (pack.mode stream), and every protocol counts some: "
            "its figure is the pipeline's own, of the test split"
        )
    return tokenizer.eos_id


def check_tokenizer(tokenizer: TextTokenizer, protocol: str) -> None:
    """Refuse another tokenizer than GPT-2's under a protocol of its tokens.

    Raises:
        DataError: it is one.
    """
    if PROTOCOLS[protocol].needs_gpt2 and not is_gpt2(tokenizer):
        raise DataError(
            f"protocol {protocol}: its figures are of GPT-2's tokens, and this tokenizer, of "
            f"{tokenizer.size:,}, is another: protocol exact gives bits a byte, of any tokenizer"
        )
