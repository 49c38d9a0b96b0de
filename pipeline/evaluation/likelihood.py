"""The bound beside the baseline's exact value, paired text by text, with errors and in units."""

import math
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.methods.estimates import Bound, Rate, rate


def likelihood(bound: Bound, exact: torch.Tensor, num_chars: torch.Tensor) -> dict[str, Any]:
    """What likelihood.json holds.

    Args:
        bound: the bound's terms [R, N], nats a text.
        exact: the baseline's nats a text [N].
        num_chars: characters a block [N], each eos counted as one.
    Raises:
        PipelineError: a perplexity is too large for a number.
    """
    ours, theirs = rate(bound.total, num_chars), rate(exact[None], num_chars)
    gap = rate(bound.total - exact, num_chars)
    chars_per_name = num_chars.double().mean().item()
    return {
        **_in_units("bound", ours, chars_per_name),
        "bound_mc_stderr": ours.mc_stderr,
        "bound_data_stderr": ours.data_stderr,
        **_in_units("baseline", theirs, chars_per_name),
        "gap_nats_per_char": gap.value,
        "gap_stderr": gap.stderr,
        "terms": {
            "integral": bound.integral.mean().item(),
            "prior": bound.prior.mean().item(),
            "reconstruction": bound.reconstruction.mean().item(),
        },
        # Of a method whose samples are not drawn in just that way.
        **({} if bound.of is None else {"bound_of": bound.of}),
        "num_texts": len(num_chars),
        "num_chars": int(num_chars.sum()),
    }


def _in_units(name: str, value: Rate, chars_per_name: float) -> dict[str, float]:
    try:
        perplexity = math.exp(value.value)
    except OverflowError:
        raise PipelineError(
            f"the {name} is {value.value:g} nats a character, whose perplexity is no number: "
            "this model has learned nothing; lower its lr"
        ) from None
    return {
        f"{name}_nats_per_char": value.value,
        f"{name}_stderr": value.stderr,
        f"{name}_nats_per_name": value.value * chars_per_name,
        f"{name}_bits_per_char": value.value / math.log(2),
        f"{name}_perplexity": perplexity,
    }
