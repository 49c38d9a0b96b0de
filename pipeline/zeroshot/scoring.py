"""A model's bound on blocks, as a protocol counts it, and the figures that follow."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ParamsError, PipelineError
from pipeline.methods.estimates import Bound, Rate, rate
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
from pipeline.scale.seeds import step_seed
from pipeline.scale.units import UNKEPT, Units
from pipeline.zeroshot.blocks import Blocks
from pipeline.zeroshot.protocols import Protocol


@dataclass(frozen=True)
class Draws:
    """How the bound is drawn: as `evaluate` in params.yaml."""

    num_replicates: int
    num_draws: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Counts:
    """What is scored of each block [N], float64: tokens, and bytes of text."""

    tokens: Tensor
    bytes: Tensor


def counts(blocks: Blocks, protocol: Protocol, byte_lengths: list[int]) -> Counts:
    """Tokens and bytes of each block, those that are shown left out."""
    lengths = np.array(byte_lengths)
    scored = [ids[:, protocol.num_known :] for ids in blocks.by_length()]
    tokens = [np.full(len(ids), ids.shape[1]) for ids in scored]
    sizes = [lengths[ids].sum(-1) for ids in scored]
    return Counts(*(torch.from_numpy(np.concatenate(each)).double() for each in (tokens, sizes)))


def draw_bound(
    model: Model,
    blocks: Blocks,
    protocol: Protocol,
    draws: Draws,
    units: Units = UNKEPT,
) -> Bound:
    """The bound of every block, on the CPU; blocks of another length are batches of their own.

    Raises:
        ParamsError: the protocol shows positions, and the model cannot be conditioned.
    """
    method = method_of(model)
    if protocol.num_known and (reason := method.cannot_condition(model)):
        raise ParamsError(f"this protocol shows the first token and does not score it; {reason}")
    found = []
    for number, ids in enumerate(blocks.by_length()):
        shown = torch.arange(ids.shape[1]) < protocol.num_known
        bound = method.draw_bound(
            model,
            ids,
            num_replicates=draws.num_replicates,
            num_draws=draws.num_draws,
            batch_size=draws.batch_size,
            seed=step_seed(draws.seed, "length", number),
            known=shown.expand(ids.shape) if protocol.num_known else None,
            units=units.named(f"bound-{number}"),
        )
        found.append(bound)
    return Bound(
        integral=torch.cat([each.integral for each in found], -1),
        prior=torch.cat([each.prior for each in found], -1),
        reconstruction=torch.cat([each.reconstruction for each in found], -1),
        of=found[0].of,
        t_min=found[0].t_min,
    )


def counted(bound: Bound, protocol: Protocol) -> dict[str, Tensor]:
    """The terms [R, N] or [N] that a protocol counts, nats a block.

    Raises:
        PipelineError: one is infinite.
    """
    terms = {
        "integral": bound.integral,
        "prior": bound.prior,
        "reconstruction": bound.reconstruction,
    }
    if bound.t_min is not None and protocol.terms != "all":
        del terms["reconstruction"]
        terms["integral"] = bound.integral / (1 - bound.t_min)
        if protocol.terms == "integral":
            del terms["prior"]
    if not all(each.isfinite().all() for each in terms.values()):
        raise PipelineError(
            "the bound is infinite for some blocks: the last step of sampling gives them no "
            "chance; train longer"
        )
    return terms


def figures(nats: Tensor, count: Counts) -> dict[str, Any]:
    """Of nats [R, N]: nats, perplexity, bits, each with its unit, and the errors."""
    value = rate(nats, count.tokens)
    return {
        **in_units(value),
        "mc_stderr": value.mc_stderr,
        "data_stderr": value.data_stderr,
        "bits_per_byte": bits_per_byte(nats, count),
    }


def in_units(value: Rate) -> dict[str, float | None]:
    """Nats and perplexity a token, each with its standard error; None where it is no number."""
    try:
        perplexity = math.exp(value.value)
    except OverflowError:
        perplexity = None
    return {
        "nats_per_token": value.value,
        "nats_per_token_stderr": value.stderr,
        "perplexity_per_token": perplexity,
        "perplexity_per_token_stderr": perplexity and perplexity * value.stderr,
    }


def bits_per_byte(nats: Tensor, count: Counts) -> float | None:
    """Bits a byte of detokenized text, of nats [R, N]; None where blocks hold only eos."""
    num_bytes = count.bytes.sum().item()
    return nats.mean(0).sum().item() / math.log(2) / num_bytes if num_bytes else None
