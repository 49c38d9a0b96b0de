"""Sample at one step count."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.device import device_label, memory_for, pick_device
from pipeline.errors import ParamsError, reported
from pipeline.files import write_json, write_jsonl
from pipeline.params import Sample, load_params
from pipeline.progress import progress
from pipeline.sedd.draw import Samples
from pipeline.sedd.model import SEDD
from pipeline.sedd.sampler import resolve, sample
from pipeline.training.checkpoint import block_mode, check_tokenizer, load_checkpoint

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
    model: SEDD,
    settings: Sample,
    *,
    num_steps: int,
    generator: torch.Generator,
    trace: Trace,
) -> Samples:
    """Draw the samples in batches, the first one traced; they end on the CPU."""
    batches: list[Samples] = []
    num, most = settings.num, settings.batch_size
    sizes = [min(most, num - first) for first in range(0, num, most)]
    num_states = num_steps + 2
    bar = progress(total=len(sizes) * num_states, desc=f"sample {num_steps} steps", unit="step")

    def watch(step: int, t: float, xt: Tensor) -> None:
        bar.update()
        if not batches:
            trace(step, t, xt)

    with bar:
        for size in sizes:
            batches.append(
                sample(
                    model,
                    size,
                    num_steps=num_steps,
                    predictor=settings.predictor,
                    generator=generator,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    on_state=watch,
                )
            )
    tokens = torch.cat([batch.tokens for batch in batches]).cpu()
    nfe = torch.cat([batch.nfe for batch in batches]).cpu()
    return Samples(tokens, nfe, sum(batch.calls for batch in batches))


def rows_of(
    samples: Samples, tokenizer: TextTokenizer, mode: Mode, drawn_by: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """One row a sample, each of which says what it was drawn by."""
    drawn = zip(samples.tokens.tolist(), samples.nfe.tolist(), strict=True)
    for index, (ids, nfe) in enumerate(drawn):
        text = tokenizer.decode(ids, mode)
        yield {"index": index, **drawn_by, "text": text, "ids": ids, "nfe": nfe}


@reported
def main(
    num_steps: Annotated[int, typer.Argument()], checkpoint: Path, tokenizer: Path, out: Path
) -> None:
    """Write NUM_STEPS.jsonl, its trace and its timing under OUT."""
    params = load_params()
    if num_steps < 1:
        raise ParamsError(f"steps: must be at least 1 (got {num_steps})")
    settings = params.sample
    device = pick_device(params.device)
    text = TextTokenizer.load(tokenizer)
    check_tokenizer(checkpoint, text.sha256)
    model = load_checkpoint(checkpoint, device)
    try:
        predictor = resolve(model, settings.predictor, settings.temperature, settings.top_p)
    except ValueError as error:
        raise ParamsError(f"sample: {error}") from None
    trace = Trace(settings.num_traced, num_steps)
    started = time.monotonic()
    with memory_for("sample.batch_size"):
        samples = sample_all(
            model,
            settings,
            num_steps=num_steps,
            generator=torch.Generator(device).manual_seed(settings.seed),
            trace=trace,
        )
    seconds = time.monotonic() - started
    drawn_by = {
        "num_steps": num_steps,
        "predictor": predictor,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": settings.seed,
    }
    write_jsonl(
        out / f"{num_steps}.jsonl", rows_of(samples, text, block_mode(checkpoint), drawn_by)
    )
    traced = [
        [{"t": t, "text": text.show(states[row].tolist())} for t, states in trace.states]
        for row in range(min(settings.num_traced, settings.num, settings.batch_size))
    ]
    write_json(out / f"{num_steps}.trace.json", {"num_steps": num_steps, "samples": traced})
    write_json(
        out / f"{num_steps}.timing.json",
        {
            "num_steps": num_steps,
            "predictor": predictor,
            "num_samples": settings.num,
            "seconds": seconds,
            "samples_per_second": settings.num / seconds,
            "device": device_label(device),
            "calls": samples.calls,
        },
    )


if __name__ == "__main__":
    typer.run(main)
