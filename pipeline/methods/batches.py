"""Samples in batches, as a stage draws them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.methods.draws import Samples
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
from pipeline.methods.samplers import UNCONDITIONAL, Conditioning
from pipeline.progress import progress

NUM_STATES_SHOWN = 33


class Trace:
    """Keeps some states of the first batch's first samples."""

    def __init__(self, num: int, num_steps: int) -> None:
        self.num = num
        moments = torch.linspace(0, num_steps + 1, min(num_steps + 2, NUM_STATES_SHOWN))
        self.steps = {round(moment) for moment in moments.tolist()}
        self.states: list[tuple[float, Tensor]] = []

    def __call__(self, step: int, t: float, xt: Tensor) -> None:
        if step in self.steps:
            self.states.append((t, xt[: self.num].cpu()))


def sample_all(
    model: Model,
    num: int,
    *,
    batch_size: int,
    num_steps: int,
    generator: torch.Generator,
    trace: Trace,
    conditionings: Sequence[Conditioning] = (UNCONDITIONAL,),
    **how: Any,
) -> Samples:
    """Draw the samples in batches, the first one traced; they end on the CPU.

    What they are asked for takes turns among `conditionings`. `how` is what else a method's
    `sample` takes: predictor, temperature, top_p, stepping.
    """
    batches: list[Samples] = []
    indices = [torch.arange(first, num, len(conditionings)) for first in range(len(conditionings))]
    parts = [
        (asked, part)
        for asked, mine in zip(conditionings, indices, strict=True)
        for part in torch.split(mine, batch_size)
        if len(part)
    ]
    num_states = num_steps + 2
    bar = progress(total=len(parts) * num_states, desc=f"sample {num_steps} steps", unit="step")

    def watch(step: int, t: float, xt: Tensor) -> None:
        bar.update()
        if not batches:
            trace(step, t, xt)

    with bar:
        for asked, part in parts:
            batch = method_of(model).sample(
                model,
                len(part),
                num_steps=num_steps,
                generator=generator,
                conditioning=asked,
                on_state=watch,
                **how,
            )
            batches.append(batch)
    place = torch.cat([part for _, part in parts]).argsort()
    tokens = torch.cat([batch.tokens for batch in batches]).cpu()[place]
    nfe = torch.cat([batch.nfe for batch in batches]).cpu()[place]
    return Samples(tokens, nfe, sum(batch.calls for batch in batches))
