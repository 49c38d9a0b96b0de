"""Samples in batches, as a stage draws them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.methods.draws import Samples
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
from pipeline.methods.samplers import UNCONDITIONAL, Conditioning
from pipeline.progress import progress
from pipeline.scale.seeds import seeded
from pipeline.scale.units import UNKEPT, Result, Units

NUM_STATES_SHOWN = 33


@dataclass(frozen=True)
class Drawn:
    """What batches came to.

    Attributes:
        samples: all of them, on the CPU.
        times: t of the states that are shown [S].
        states: those states of the first batch's first samples [S, n, L].
        seconds: that the batches took, whenever that was.
    """

    samples: Samples
    times: list[float]
    states: Tensor
    seconds: float


def sample_all(
    model: Model,
    num: int,
    *,
    batch_size: int,
    num_steps: int,
    seed: int,
    num_traced: int,
    conditionings: Sequence[Conditioning] = (UNCONDITIONAL,),
    units: Units = UNKEPT,
    **how: Any,
) -> Drawn:
    """Draw the samples in batches, each a unit with a seed of its own, the first one traced.

    What they are asked for takes turns among `conditionings`. `how` is what else a method's
    `sample` takes: predictor, temperature, top_p, stepping.
    """
    indices = [torch.arange(first, num, len(conditionings)) for first in range(len(conditionings))]
    parts = [
        (asked, part)
        for asked, mine in zip(conditionings, indices, strict=True)
        for part in torch.split(mine, batch_size)
        if len(part)
    ]
    num_states = num_steps + 2
    moments = torch.linspace(0, num_steps + 1, min(num_states, NUM_STATES_SHOWN))
    traced = {round(moment) for moment in moments.tolist()}
    bar = progress(
        total=len(parts) * num_states,
        desc=f"sample {num_steps} steps",
        unit="step",
        done=units.num_kept(len(parts)) * num_states,
    )

    def draw(index: int) -> Result:
        asked, part = parts[index]
        times, states = list[float](), list[Tensor]()

        def watch(step: int, t: float, xt: Tensor) -> None:
            bar.update()
            if index == 0 and step in traced:
                times.append(t)
                states.append(xt[:num_traced].cpu())

        started = time.monotonic()
        batch = method_of(model).sample(
            model,
            len(part),
            num_steps=num_steps,
            generator=seeded(model.device, seed, "sample", index),
            conditioning=asked,
            on_state=watch,
            **how,
        )
        result = {"tokens": batch.tokens.cpu(), "nfe": batch.nfe.cpu()}
        seconds = torch.tensor(time.monotonic() - started, dtype=torch.float64)
        result |= {"calls": torch.tensor(batch.calls), "seconds": seconds}
        if index == 0:
            result |= {
                "times": torch.tensor(times, dtype=torch.float64),
                "states": torch.stack(states),
            }
        return result

    with bar:
        found = units.in_order(len(parts), draw)
    place = torch.cat([part for _, part in parts]).argsort()
    tokens, nfe = (torch.cat([each[key] for each in found])[place] for key in ("tokens", "nfe"))
    return Drawn(
        Samples(tokens, nfe, sum(int(each["calls"]) for each in found)),
        found[0]["times"].tolist(),
        found[0]["states"],
        sum(each["seconds"].item() for each in found),
    )
