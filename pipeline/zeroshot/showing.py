"""What a terminal shows of blocks and figures, each with its unit."""

from collections.abc import Mapping
from typing import Any

from pipeline.table import aligned


def counts_shown(facts: Mapping[str, Any]) -> str:
    """Texts, tokens, blocks, and what stands in none."""
    return aligned(
        [
            ["protocol", facts["protocol"]],
            ["texts", f"{facts['num_texts']:,}"],
            ["tokens", f"{facts['num_stream']:,} in the stream"],
            ["blocks", _blocks(facts)],
            ["left over", f"{facts['num_dropped']:,} tokens"],
        ]
    )


def figures_shown(result: Mapping[str, Any]) -> str:
    """Every figure of a model, and of the one beside it, as a table."""
    return aligned(figure_rows(result))


def figure_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """What each figure is called, and its value."""
    nats, perplexity = (_rate(result, name) for name in ("nats", "perplexity"))
    errors = f"over blocks {result['data_stderr']:.4f}, Monte Carlo {result['mc_stderr']:.4f}"
    draws = f"{result['num_replicates']} replicates of {result['num_draws']} draws a block"
    terms = (f"{name} {nats:.4f}" for name, nats in result["terms_nats_per_token"].items())
    lines = [
        ["protocol", result["protocol"]],
        ["blocks", _blocks(result)],
        ["scored", f"{result['num_tokens']:,} tokens, {result['num_bytes']:,} bytes of text"],
        ["nats a token", f"≤ {nats} (standard errors: {errors}; {draws})"],
        ["of which", ", ".join(terms)],
        ["perplexity a token", f"≤ {perplexity}"],
        ["bits a byte", f"≤ {_or_none(result['bits_per_byte'])}"],
    ]
    if "nats_per_word" in result:
        lines.append(["nats a word of the original", f"≤ {_or_none(result['nats_per_word'])}"])
    if "against" in result:
        lines += _against(result["against"])
    if "last_word" in result:
        lines += _last_word(result["last_word"])
    lines.append(["may stand beside", result["comparable_with"] or "no published figure"])
    return lines + [["", f"since {reason}"] for reason in result["differs"]]


def _blocks(facts: Mapping[str, Any]) -> str:
    num, tail = facts["num_blocks"], facts["tail"]
    text = f"{num - bool(tail):,} of {facts['length']:,} tokens"
    text += f" and a tail of {tail:,}" if tail else ""
    is_all = num == facts["num_blocks_of"]
    return text if is_all else f"{text}: {num:,} of {facts['num_blocks_of']:,} blocks"


def _rate(figures: Mapping[str, Any], unit: str) -> str:
    if (value := figures[f"{unit}_per_token"]) is None:
        return "beyond all numbers"
    places = 4 if unit == "nats" else 2
    return f"{value:,.{places}f} ± {figures[f'{unit}_per_token_stderr']:,.{places}f}"


def _or_none(value: float | None) -> str:
    return "none: no text" if value is None else f"{value:.4f}"


def _against(theirs: Mapping[str, Any]) -> list[list[str]]:
    gap = f"{theirs['difference_nats_per_token']:+.4f} ± {theirs['difference_stderr']:.4f}"
    return [
        [f"{theirs['name']}, nats a token", f"{_rate(theirs, 'nats')}, exact"],
        [f"{theirs['name']}, perplexity a token", f"{_rate(theirs, 'perplexity')}, exact"],
        [f"{theirs['name']}, bits a byte", _or_none(theirs["bits_per_byte"])],
        ["ours less its, nats a token", f"{gap}, block by block"],
    ]


def _last_word(found: Mapping[str, Any]) -> list[list[str]]:
    if "refused" in found:
        return [["last words right", f"not known: {found['refused']}"]]
    number = f"{found['num_texts']:,} of {found['num_texts_of']:,} texts"
    lines = [["last words right", f"{_share(found)}, {number}"]]
    if theirs := found.get("against"):
        lines.append([f"{theirs['name']}, last words right", _share(theirs)])
    return lines


def _share(found: Mapping[str, Any]) -> str:
    return f"{found['accuracy']:.2%} ± {found['stderr']:.2%}"
