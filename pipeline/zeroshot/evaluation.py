"""A set under a protocol: its blocks, and every figure of a model on them."""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.data.gpt2 import is_gpt2
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import DataError, ParamsError
from pipeline.kernels.precision import Precision, products_in
from pipeline.methods.protocol import Model
from pipeline.scale.units import UNKEPT, Units
from pipeline.zeroshot.against import Against, after_a_start, block_nats, compared
from pipeline.zeroshot.blocks import Blocks, cut
from pipeline.zeroshot.comparable import Set, compare
from pipeline.zeroshot.last_word import last_words
from pipeline.zeroshot.protocols import PROTOCOLS
from pipeline.zeroshot.scoring import Draws, counted, counts, draw_bound, figures
from pipeline.zeroshot.texts import Texts, check_tokenizer, encoded, eos_of


@dataclass(frozen=True)
class Scored:
    """A model with its tokenizer, how it computes, and the one beside it."""

    model: Model
    tokenizer: TextTokenizer
    precision: Precision
    against: Against | None


@dataclass(frozen=True)
class Packed:
    """A set's blocks under a protocol, and the facts about them that every result holds."""

    blocks: Blocks
    facts: dict[str, Any]


def pack(
    of: Set,
    texts: Texts,
    tokenizer: TextTokenizer,
    protocol: str,
    *,
    length: int,
    workers: int,
    max_blocks: int | None,
) -> Packed:
    """The blocks that are scored.

    Raises:
        DataError: the protocol is of another tokenizer, a text is not in its ids, or there is no
            block.
        ParamsError: a block of this length holds nothing.
    """
    check_tokenizer(tokenizer, protocol)
    rules, eos_id = PROTOCOLS[protocol], eos_of(tokenizer)
    documents = encoded(texts, tokenizer)
    try:
        every = cut(documents, rules, length=length, eos_id=eos_id, workers=workers)
    except ValueError as error:
        raise ParamsError(f"protocol {protocol}: {error}") from None
    if not len(every):
        raise DataError(_no_block(len(texts.rows), every.num_dropped, protocol, length, workers))
    blocks = every.chosen(max_blocks)
    facts = {
        "protocol": protocol,
        "of": of.name,
        "split": of.split,
        "detokenizer": of.detokenizer,
        "tokenizer": "gpt2" if is_gpt2(tokenizer) else tokenizer.sha256,
        "length": length,
        "workers": None if rules.keeps_all else workers,
        "num_texts": len(texts.rows),
        "num_stream": sum(map(len, documents)) + len(documents) * rules.eos_after_rows,
        "num_blocks": len(blocks),
        "num_blocks_of": blocks.num_of,
        "tail": len(blocks.tail),
        "num_dropped": blocks.num_dropped,
        "max_blocks": max_blocks,
    }
    return Packed(blocks, facts)


def _no_block(num_rows: int, num_tokens: int, protocol: str, length: int, workers: int) -> str:
    if not num_rows:
        return f"protocol {protocol}: the set has no rows, so no block"
    return (
        f"protocol {protocol}: no block of {length:,} tokens from {num_rows:,} rows of "
        f"{num_tokens:,} tokens with workers {workers}: of each worker's every 1,000 rows the rest "
        "is dropped; take fewer workers, or protocol exact, which keeps all"
    )


def score(
    scored: Scored, packed: Packed, texts: Texts, draws: Draws, units: Units = UNKEPT
) -> dict[str, Any]:
    """Every figure of a model on a set's blocks, each with its unit, and what differs from a table.

    Of LAMBADA also the accuracy of the last word, which is the same under every protocol.

    Raises:
        PipelineError: the bound is infinite, or the protocol asks what the model cannot do.
    """
    protocol, blocks = PROTOCOLS[packed.facts["protocol"]], packed.blocks
    lengths = scored.tokenizer.byte_lengths()
    count = counts(blocks, protocol, lengths)
    units = units.named(packed.facts["protocol"], f"bound, {packed.facts['protocol']}")
    with products_in(scored.precision, scored.model.device):
        bound = draw_bound(scored.model, blocks, protocol, draws, units)
    terms = counted(bound, protocol)
    nats = sum(terms.values(), torch.zeros(draws.num_replicates, 1, dtype=torch.float64))
    result = {
        **packed.facts,
        "num_tokens": int(count.tokens.sum()),
        "num_bytes": int(count.bytes.sum()),
        **figures(nats, count),
        "terms_nats_per_token": {
            name: (each.sum(-1).mean() / count.tokens.sum()).item() for name, each in terms.items()
        },
        "num_replicates": draws.num_replicates,
        "num_draws": draws.num_draws,
        "precision": scored.precision,
        # Of a method whose samples are not drawn in just that way.
        "bound_of": bound.of,
    }
    if protocol.keeps_all and len(blocks) == blocks.num_of and texts.num_words:
        result["nats_per_word"] = nats.mean(0).sum().item() / texts.num_words
    if scored.against is not None:
        exact = block_nats(scored.against, blocks, protocol, eos_of(scored.tokenizer), units)
        theirs = counts(blocks, after_a_start(protocol), lengths)
        result["against"] = compared(nats, count, exact, theirs, scored.against)
    if packed.facts["detokenizer"] == "lambada":
        result["last_word"] = last_words(
            scored.model,
            texts.rows,
            scored.tokenizer,
            most=packed.facts["max_blocks"],
            batch_size=draws.batch_size,
            precision=scored.precision,
            against=scored.against,
            units=units,
        )
    return result | compare(result)
