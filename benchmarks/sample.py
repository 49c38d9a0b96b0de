"""Sampling: from nothing but masks to clean tokens."""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import Machine
from benchmarks.measure import Facts, Measured, Side, Step, interleaved
from benchmarks.plain import plain_model, plain_sample
from benchmarks.rows import Check, Plan, Row, at_least, floor_text, rate
from benchmarks.shapes import Parameterization, config_of, perturbed, shape_of
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.sampler import sample

NUM = {"char": 128, "gpt2": 4}
NUM_STEPS = {"char": 1024, "gpt2": 128}


def plain(size: str, timed: int | None = None) -> Step:
    """Sampling with the raw score in its plain formulation.

    Args:
        timed: network calls that are made, in place of all: each costs the same, and the seconds
            returned are those of all.
    """
    model = perturbed(plain_model(config_of(size, "raw"))).eval()
    generator = torch.Generator().manual_seed(0)
    num, num_steps = NUM[size], NUM_STEPS[size]
    calls = num_steps + 1

    def run() -> Facts:
        started = time.perf_counter()
        plain_sample(model, num, num_steps, generator, first=timed)
        scale = 1.0 if timed is None else calls / timed
        return {"seconds": scale * (time.perf_counter() - started), "calls": calls}

    plain_sample(model, num, num_steps, generator, first=1)
    return run


def ours(size: str, parameterization: Parameterization, num_steps: int | None = None) -> Step:
    """Sampling as the product does it.

    Args:
        num_steps: in place of those of the size; the seconds are then scaled to these.
    """
    model = perturbed(SEDD(config_of(size, parameterization))).eval()
    generator = torch.Generator().manual_seed(0)
    steps = NUM_STEPS[size] if num_steps is None else num_steps

    taken = Counter[str]()

    def count(what: str, num_dims: int) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def hook(_: Any, arguments: tuple[Tensor, ...]) -> None:
            taken[what] += math.prod(arguments[0].shape[:num_dims])

        return hook

    blocks: Any = model.network.blocks
    blocks[0].norm1.register_forward_pre_hook(count("first_positions", 2))
    blocks[-1].norm1.register_forward_pre_hook(count("rows", 1))
    model.network.output_layer.norm_final.register_forward_pre_hook(count("head_positions", 1))

    def run() -> Facts:
        taken.clear()
        started = time.perf_counter()
        samples = sample(model, NUM[size], num_steps=steps, predictor="auto", generator=generator)
        scale = (NUM_STEPS[size] + 1) / (steps + 1)
        return {
            "seconds": scale * (time.perf_counter() - started),
            "calls": samples.calls * scale,
            "taken": {what: count * scale for what, count in taken.items()},
            "nfe_max": int(samples.nfe.max()) * scale,
        }

    sample(model, NUM[size], num_steps=1, predictor="auto", generator=generator)
    return run


def ours_side(size: str, parameterization: Parameterization, **settings: Any) -> Side:
    """Our side at a size."""
    both = {"size": size, "parameterization": parameterization}
    return Side("benchmarks.sample:ours", both | settings)


def row_of(
    name: str,
    size: str,
    parameterization: Parameterization,
    sides: tuple[Measured, Measured],
    machine: Machine,
    bar: float,
    *,
    reference_share: float,
    checks: tuple[Check, ...] = (),
    notes: tuple[str, ...] = (),
) -> Row:
    """A row of samples a second; what ours needs is what it took, one value of sigma a call."""
    plain, ours = sides
    raw, own = config_of(size, "raw"), config_of(size, parameterization)
    calls = plain.facts["calls"]
    needed = shape_of(own).forward(**ours.facts["taken"], sigmas=ours.facts["calls"])
    done = calls * shape_of(raw).forward(NUM[size])
    with torch.device("meta"):
        weights = sum(p.nbytes for p in SEDD(own).parameters())
    floor = floor_text(
        machine.during(ours.flops), needed, ours.facts["calls"] * weights, ours.median
    )
    ratio = plain.median / ours.median
    return Row(
        name,
        "samples/s",
        (at_least(ratio, bar), *checks),
        ours=rate(ours, NUM[size], machine, needed),
        plain=rate(plain, NUM[size], machine, done),
        reference_share=reference_share,
        floor=floor,
        notes=(f"NFE at most {ours.facts['nfe_max']:.0f} (plain {calls:.0f})", *notes),
    )


def sample_names(plan: Plan, machine: Machine) -> list[Row]:
    """The rows sample_names_cached and sample_names_raw."""
    fewer: dict[str, Any] = {"timed": 24} if plan.quick else {}
    raw: dict[str, Any] = {"num_steps": 24} if plan.quick else {}
    sides = {
        "plain": Side("benchmarks.sample:plain", {"size": "char", **fewer}),
        "cached": ours_side("char", "conditional"),
        "raw": ours_side("char", "raw", **raw),
    }
    found = interleaved(sides, plan.runs(3, 3), warm_up=False, on_run=plan.on_run)
    notes = ("24 of 1,024 steps of plain and of raw timed, and scaled",) if plan.quick else ()
    cached = found["cached"]
    return [
        row_of(
            "sample_names_cached", "char", "conditional", (found["plain"], cached), machine, 40,
            reference_share=0.50,
            checks=(Check("NFE at most 16", cached.facts["nfe_max"] <= 16),),
            notes=notes,
        ),
        row_of(
            "sample_names_raw", "char", "raw", (found["plain"], found["raw"]), machine, 1.5,
            reference_share=0.50,
            notes=notes,
        ),
    ]  # fmt: skip


def sample_gpt2(plan: Plan, machine: Machine) -> list[Row]:
    """The row sample_gpt2_cached."""
    timed = plan.runs(16, 2)
    sides = {
        "plain": Side("benchmarks.sample:plain", {"size": "gpt2", "timed": timed}),
        "ours": ours_side("gpt2", "conditional"),
    }
    found = interleaved(sides, plan.runs(3, 1), warm_up=False, on_run=plan.on_run)
    return [
        row_of(
            "sample_gpt2_cached", "gpt2", "conditional", (found["plain"], found["ours"]), machine,
            12,
            reference_share=0.11,
            notes=(f"{timed} of 129 calls of plain timed, and scaled: each costs the same",),
        )
    ]  # fmt: skip
