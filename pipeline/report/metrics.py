"""The figures of an experiment: metrics.json, results.json and by_steps.csv."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.files import whole
from pipeline.report.experiment import Experiment
from pipeline.report.published import beside_published
from pipeline.report.records import Scores

SCORES = (
    "gen_ppl",
    "gen_ppl_stderr",
    "gen_ppl_mean_of_exp",
    "gen_ppl_sedd",
    "gen_ppl_mdlm",
    "entropy",
    "entropy_per_sample",
    "entropy_per_sample_bits",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "rep_4",
    "self_bleu",
    "uniqueness",
    "novelty",
    "held_out",
    "well_formed",
    "invalid_utf8",
    "nfe",
)
# Where it was asked for.
MAUVE = ("mauve", "mauve_spread")


def columns(experiment: Experiment) -> tuple[str, ...]:
    """Keys of a row of by_steps, before its wall-clock `seconds`."""
    return SCORES + (MAUVE if experiment.has_mauve else ())


def headlines(experiment: Experiment, steps: int) -> dict[str, float | None]:
    """What DVC shows: the figures at `steps` that tell experiments apart, few enough for a screen.

    Bits a byte compare across tokenizers.
    """
    at, likelihood = experiment.by_steps[steps].scores, experiment.likelihood
    return {
        "num_steps": steps,
        "gen_ppl": at.gen_ppl,
        "gen_ppl_stderr": at.gen_ppl_stderr,
        "entropy": at.entropy,
        "well_formed": at.well_formed,
        "nfe": at.nfe,
        "bound_bpb": likelihood.bound_bits_per_byte,
        "baseline_bpb": likelihood.baseline_bits_per_byte,
    }


def results(experiment: Experiment, steps: int) -> dict[str, Any]:
    """All figures, with `gen_ppl` and `entropy` at `steps` on top."""
    at, keys = experiment.by_steps[steps].scores, columns(experiment)
    likelihood = experiment.likelihood
    without = {"bound_of"} if likelihood.given_labels else {"bound_of", "given_labels"}
    by_label = at.model_dump(include={"by_label"}) if at.by_label else {}
    return by_label | {
        "gen_ppl": at.gen_ppl,
        "entropy": at.entropy,
        "scorer": str(experiment.scorer),
        "likelihood": likelihood.model_dump(exclude=without),
        "by_steps": {
            str(num_steps): _row(keys, found.scores, found.timing.seconds)
            for num_steps, found in experiment.by_steps.items()
        },
        "by_temperature": {
            str(temperature): _row(keys, found.scores, found.timing.seconds)
            for temperature, found in experiment.frontier(steps).items()
        },
        "real_text": _row(keys, experiment.real_text, seconds=None),
        "references": [each.model_dump() for each in beside_published(experiment, steps)],
    }


def write_by_steps(path: Path, experiment: Experiment) -> None:
    """One row a step count; a figure that could not be measured is an empty cell."""
    with whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        keys = columns(experiment)
        writer = csv.DictWriter(file, ["num_steps", *keys, "seconds"], lineterminator="\n")
        writer.writeheader()
        for num_steps, at in experiment.by_steps.items():
            writer.writerow({"num_steps": num_steps} | _row(keys, at.scores, at.timing.seconds))


def _row(keys: Iterable[str], scores: Scores, seconds: float | None) -> dict[str, float | None]:
    return {name: getattr(scores, name) for name in keys} | {"seconds": seconds}
