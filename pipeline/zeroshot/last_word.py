"""Accuracy of the last word, as LAMBADA asks for it: all its tokens right, in one forward.

A text is eos, its context, and from the last blank on its last word. A diffusion model sees the
context and a mask for each token of the word, and nothing behind; an autoregressive one sees the
tokens before each. Right is a word whose every token is the likeliest one, without any filter.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.data.tokenizer import TextTokenizer
from pipeline.kernels.precision import Precision, products_in
from pipeline.methods.draws import FREE
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
from pipeline.scale.units import UNKEPT, Result, Units
from pipeline.zeroshot.against import Against
from pipeline.zeroshot.texts import eos_of

LAST_WORD = re.compile(r"\s\S+\s*\Z")
Ask = Callable[[Tensor, Tensor], Tensor]
"""Tokens [B, L] and where they are asked for [B, L] -> the likeliest tokens there [B, L]."""
Question = tuple[list[int], int]
"""Ids of a text, and how many of the last ones are asked for."""


def questions(
    rows: Sequence[str], tokenizer: TextTokenizer, length: int, most: int | None
) -> list[Question]:
    """At most so many of the rows, evenly spaced; one without a blank asks for nothing.

    Where a text is longer than a block its first tokens are cut off.
    """
    most = len(rows) if most is None else min(most, len(rows))
    chosen = [rows[number * len(rows) // most] for number in range(most)]
    cuts = [(row, found.start()) for row in chosen if (found := LAST_WORD.search(row))]
    contexts = tokenizer.encode_batch([row[:cut] for row, cut in cuts])
    words = tokenizer.encode_batch([row[cut:] for row, cut in cuts])
    start = eos_of(tokenizer)
    return [
        ([start, *context, *word][-length:], len(word))
        for context, word in zip(contexts, words, strict=True)
        if len(word) < length
    ]


def by_diffusion(model: Model) -> Ask:
    """What a diffusion model thinks likeliest, all positions at once."""
    return lambda ids, asked: method_of(model).likeliest(model, ids.masked_fill(asked, FREE))


def by_causal(against: Against) -> Ask:
    """What an autoregressive model thinks likeliest next after the true tokens before."""

    @torch.inference_mode()
    def ask(ids: Tensor, asked: Tensor) -> Tensor:
        states = against.model.states(list(ids[:, :-1]))
        return torch.cat([ids[:, :1], against.model.likeliest(states).view_as(ids[:, 1:])], 1)

    return ask


def is_right(
    asked: Sequence[Question],
    ask: Ask,
    *,
    batch_size: int,
    device: torch.device,
    units: Units = UNKEPT,
) -> Tensor:
    """Whether each question's tokens are all right [n], float64."""
    batches = _alike(asked, batch_size)

    def batch_is_right(index: int) -> Result:
        places = batches[index]
        ids = torch.tensor([asked[place][0] for place in places], device=device)
        num = torch.tensor([asked[place][1] for place in places], device=device)
        here = torch.arange(-ids.shape[1], 0, device=device) >= -num[:, None]
        return {"right": ((ask(ids, here) == ids) | ~here).all(-1).double()}

    right = torch.zeros(len(asked), dtype=torch.float64)
    for places, found in zip(batches, units.in_order(len(batches), batch_is_right), strict=True):
        right[places] = found["right"]
    return right


def _alike(asked: Sequence[Question], batch_size: int) -> list[list[int]]:
    """Places of questions of the same length, in batches."""
    by_length: dict[int, list[int]] = {}
    for place, (ids, _) in enumerate(asked):
        by_length.setdefault(len(ids), []).append(place)
    return [
        places[first : first + batch_size]
        for places in by_length.values()
        for first in range(0, len(places), batch_size)
    ]


def last_words(
    model: Model,
    rows: Sequence[str],
    tokenizer: TextTokenizer,
    *,
    most: int | None,
    batch_size: int,
    precision: Precision,
    against: Against | None,
    units: Units = UNKEPT,
) -> dict[str, Any]:
    """Accuracy of a model's last words, and of the autoregressive one's on the same texts.

    `refused` says why there is none.
    """
    asked = questions(rows, tokenizer, model.length, most)
    if not asked:
        return {"refused": "no text has a last word"}
    how: dict[str, Any] = {"batch_size": batch_size, "device": model.device}
    try:
        with products_in(precision, model.device):
            named = units.named("words", "last words")
            ours = is_right(asked, by_diffusion(model), units=named, **how)
    except ValueError as error:
        return {"refused": str(error)}
    found: dict[str, Any] = {**_accuracy(ours), "num_texts": len(asked), "num_texts_of": len(rows)}
    if against is not None:
        named = units.named("words-against", "last words")
        theirs = is_right(asked, by_causal(against), units=named, **how)
        gap = {f"difference_{key}": value for key, value in _accuracy(ours - theirs).items()}
        found["against"] = {"name": against.name, **_accuracy(theirs), **gap}
    return found


def _accuracy(right: Tensor) -> dict[str, float]:
    """The mean of right [n], and its standard error."""
    spread = right.std(correction=0).item()
    return {"accuracy": right.mean().item(), "stderr": spread / math.sqrt(len(right))}
