"""Samples in batches, as a stage draws them."""

from typing import Any

import torch
from torch import Tensor

from pipeline.methods.draws import Samples
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
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
    **how: Any,
) -> Samples:
    """Draw the samples in batches, the first one traced; they end on the CPU.

    `how` is what else a method's `sample` takes: predictor, temperature, top_p, stepping.
    """
    batches: list[Samples] = []
    sizes = [min(batch_size, num - first) for first in range(0, num, batch_size)]
    num_states = num_steps + 2
    bar = progress(total=len(sizes) * num_states, desc=f"sample {num_steps} steps", unit="step")

    def watch(step: int, t: float, xt: Tensor) -> None:
        bar.update()
        if not batches:
            trace(step, t, xt)

    with bar:
        for size in sizes:
            batch = method_of(model).sample(
                model, size, num_steps=num_steps, generator=generator, on_state=watch, **how
            )
            batches.append(batch)
    tokens = torch.cat([batch.tokens for batch in batches]).cpu()
    nfe = torch.cat([batch.nfe for batch in batches]).cpu()
    return Samples(tokens, nfe, sum(batch.calls for batch in batches))
