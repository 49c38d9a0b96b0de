"""Sample at one step count."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.checkpoints.checkpoint import block_mode, check_tokenizer, load_checkpoint
from pipeline.config.params import load_params
from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.device import device_label, memory_for, pick_device, pick_precision
from pipeline.errors import ParamsError, reported
from pipeline.files import folder_revision, write_json, write_jsonl
from pipeline.kernels.precision import products_in
from pipeline.methods.batches import Drawn, sample_all
from pipeline.methods.draws import Samples
from pipeline.methods.registry import method_of
from pipeline.methods.samplers import each_combination
from pipeline.scale.shares import starting
from pipeline.scale.unfinished import unfinished_units
from stages import STARTED_BY, run


@reported
def main(
    num_steps: Annotated[int, typer.Argument()],
    checkpoint: Path,
    tokenizer: Path,
    out: Path,
    temperature: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Write NUM_STEPS.jsonl, its trace and its timing under OUT.

    With another temperature than `sample.temperature` they are called temperature-TEMPERATURE.
    """
    params = load_params()
    if num_steps < 1:
        raise ParamsError(f"steps: must be at least 1 (got {num_steps})")
    settings, device = params.sample, pick_device(params.device)
    text, mode = TextTokenizer.load(tokenizer), block_mode(checkpoint)
    check_tokenizer(checkpoint, text.sha256)
    model = load_checkpoint(checkpoint, device)
    name = str(num_steps) if temperature is None else f"temperature-{temperature}"
    how = {
        "temperature": settings.temperature if temperature is None else _number(temperature),
        "top_p": settings.top_p,
    }
    stepping = settings.stepping
    asked = settings.conditioning
    conditionings = each_combination(model.labels, settings.guidance) if asked is None else [asked]
    try:
        predictor = method_of(model).resolve(
            model, settings.predictor, stepping=stepping, conditioning=conditionings[0], **how
        )
    except ValueError as error:
        raise ParamsError(f"sample: {error}") from None
    precision = pick_precision(settings.precision, device, "sample.precision")
    by = {"device": device_label(device), "precision": precision}
    decides = {"num_steps": num_steps, "sample": settings.model_dump() | how, **by}
    identity = decides | {"checkpoint": folder_revision(checkpoint)}
    resources = params.resources
    start = starting("stages.sample", resources, params.device)
    with unfinished_units("sample", identity, STARTED_BY, start, resources.store) as (units, work):
        with memory_for("sample.batch_size"), products_in(precision, device):
            drawn = sample_all(
                model,
                settings.num,
                batch_size=settings.batch_size,
                num_steps=num_steps,
                seed=settings.seed,
                num_traced=settings.num_traced,
                units=units.named("batch"),
                predictor=predictor,
                stepping=stepping,
                conditionings=conditionings,
                **how,
            )
        work.computed()
        drawn_by = {"num_steps": num_steps, "predictor": predictor, **how, "seed": settings.seed}
        drawn_by |= stepping.said()
        said = [drawn_by | each.said() for each in conditionings]
        write_jsonl(out / f"{name}.jsonl", _rows(drawn.samples, said, text, mode))
        traced = _traced(drawn, text)
        write_json(out / f"{name}.trace.json", {"num_steps": num_steps, "samples": traced})
        timing = {"num_steps": num_steps, "predictor": predictor, **_timing(drawn), **by}
        write_json(out / f"{name}.timing.json", timing)
        work.finish()


def _number(temperature: str) -> float:
    # As text it names files: DVC writes 1 and 1.0 as they stand in params.yaml.
    try:
        return float(temperature)
    except ValueError:
        raise ParamsError(f"--temperature must be a number (got {temperature})") from None


def _timing(drawn: Drawn) -> dict[str, Any]:
    num = len(drawn.samples.tokens)
    return {
        "num_samples": num,
        "seconds": drawn.seconds,
        "samples_per_second": num / drawn.seconds,
        "calls": drawn.samples.calls,
    }


def _rows(
    samples: Samples, said: list[dict[str, Any]], text: TextTokenizer, mode: Mode
) -> Iterator[dict[str, Any]]:
    """Each sample behind what it was drawn by, which takes turns among `said`."""
    drawn = zip(samples.tokens.tolist(), samples.nfe.tolist(), strict=True)
    for index, (ids, nfe) in enumerate(drawn):
        own = {"text": text.decode(ids, mode), "ids": ids, "nfe": nfe}
        yield {"index": index} | said[index % len(said)] | own


def _traced(drawn: Drawn, text: TextTokenizer) -> list[list[dict[str, Any]]]:
    """The states of each sample that was traced."""
    return [
        [
            {"t": t, "text": text.show(ids)}
            for t, ids in zip(drawn.times, states.tolist(), strict=True)
        ]
        for states in drawn.states.unbind(1)
    ]


if __name__ == "__main__":
    run(main)
