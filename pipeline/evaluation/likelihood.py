"""The bound beside the baseline's exact value, paired text by text, with errors and in units."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.data.packed import Packed
from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.errors import PipelineError
from pipeline.methods.estimates import Bound, rate

Ints = npt.NDArray[np.int64]
ROWS_AT_ONCE = 1024
"""Blocks whose tokens are looked up together."""


@dataclass(frozen=True)
class Sizes:
    """How long each of N blocks is, in what its nats are counted by.

    Attributes:
        tokens: through its first eos, of running text all [N].
        chars: of its text, each end counted as one [N].
        bytes: of its text in UTF-8, an end has none [N].
    """

    tokens: Tensor
    chars: Tensor
    bytes: Tensor

    @classmethod
    def of(cls, blocks: Packed, tokenizer: TextTokenizer, num_tokens: Ints) -> Self:
        """Those of the held-out blocks, of which `num_tokens` [N] are scored."""
        chars, sizes = (_sums(size, blocks) for size in (tokenizer.num_chars, tokenizer.num_bytes))
        return cls(torch.from_numpy(num_tokens), torch.from_numpy(chars), torch.from_numpy(sizes))


def _sums(size: Callable[[Iterable[int], Mode], int], blocks: Packed) -> Ints:
    """What `size` makes of each block [N]: of none of its tokens, and more for each of its text."""
    mode, eos_id = blocks.meta.mode, blocks.meta.eos_id
    of_none = size([], mode)
    more = np.array([size([id], mode) - of_none for id in range(blocks.meta.vocab_size)])

    def of_rows(ids: Ints) -> Ints:
        sizes = more[ids]
        if mode == "pad":
            sizes[(ids == eos_id).cumsum(-1) > 0] = 0
        return of_none + sizes.sum(-1)

    firsts = range(0, len(blocks.test), ROWS_AT_ONCE)
    return np.concatenate([of_rows(blocks.test[first : first + ROWS_AT_ONCE]) for first in firsts])


def likelihood(
    bound: Bound, exact: Tensor, sizes: Sizes, given_labels: Bound | None = None
) -> dict[str, Any]:
    """What likelihood.json holds.

    Args:
        bound: the bound's terms [R, N], nats a block.
        exact: the baseline's nats a block [N].
        sizes: of the blocks.
        given_labels: the bound given the blocks' labels, under the same noise.
    Raises:
        PipelineError: a perplexity is too large for a number.
    """
    gap = rate(bound.total - exact, sizes.chars)
    ours = rate(bound.total, sizes.chars)
    return {
        **_in_units("bound", bound.total, sizes),
        "bound_mc_stderr": ours.mc_stderr,
        "bound_data_stderr": ours.data_stderr,
        **_in_units("baseline", exact[None], sizes),
        "gap_nats_per_char": gap.value,
        "gap_stderr": gap.stderr,
        "terms": {
            "integral": bound.integral.mean().item(),
            "prior": bound.prior.mean().item(),
            "reconstruction": bound.reconstruction.mean().item(),
        },
        # Of a method whose samples are not drawn in just that way.
        **({} if bound.of is None else {"bound_of": bound.of}),
        **({} if given_labels is None else _gain(bound, given_labels, sizes)),
        "num_texts": len(exact),
        "num_tokens": int(sizes.tokens.sum()),
        "num_chars": int(sizes.chars.sum()),
        "num_bytes": int(sizes.bytes.sum()),
    }


def _gain(bound: Bound, given_labels: Bound, sizes: Sizes) -> dict[str, Any]:
    """The bound given labels, and what they spare, paired draw by draw."""
    gain = rate(bound.total - given_labels.total, sizes.chars)
    given = rate(given_labels.total, sizes.chars)
    return {
        "given_labels": {
            "bound_nats_per_char": given.value,
            "bound_stderr": given.stderr,
            "gain_nats_per_char": gain.value,
            "gain_stderr": gain.stderr,
        }
    }


def _in_units(name: str, nats: Tensor, sizes: Sizes) -> dict[str, float | None]:
    """Nats [R, N] of blocks in every unit; `stderr` is that of nats a character."""
    by_char, by_token = rate(nats, sizes.chars), rate(nats, sizes.tokens)
    num_bytes = sizes.bytes.sum().item()
    total = by_token.value * sizes.tokens.sum().item()
    try:
        perplexity = math.exp(by_token.value)
    except OverflowError:
        raise PipelineError(
            f"the {name} is {by_token.value:g} nats a token, whose perplexity is no number: "
            "this model has learned nothing; lower its lr"
        ) from None
    return {
        f"{name}_nats_per_char": by_char.value,
        f"{name}_stderr": by_char.stderr,
        f"{name}_bits_per_char": by_char.value / math.log(2),
        f"{name}_nats_per_token": by_token.value,
        f"{name}_nats_per_token_stderr": by_token.stderr,
        f"{name}_perplexity_per_token": perplexity,
        # Documents may all be empty.
        f"{name}_bits_per_byte": total / num_bytes / math.log(2) if num_bytes else None,
        f"{name}_nats_per_block": nats.mean().item(),
    }
