"""Reading of what earlier stages have written, checked on the way in."""

import csv
from pathlib import Path
from typing import TypeVar

from pipeline.errors import PipelineError
from pipeline.files import parsed_as
from pipeline.report.records import (
    AtSteps,
    Experiment,
    Likelihood,
    LossCurve,
    ModelConfig,
    PackedMeta,
    Provenance,
    Record,
    Run,
    Sample,
    Scores,
    Snapshot,
    Timing,
    Trace,
)

R = TypeVar("R", bound=Record)


def read_experiment(artifacts: Path, reports: Path, step_counts: list[int]) -> Experiment:
    """Read what the stages before the report have written.

    Raises:
        PipelineError: a file is missing, damaged or of another step count, or texts were scored
            by different scorers.
    """
    experiment = Experiment(
        provenance=_read(artifacts / "provenance.json", Provenance),
        packed=_read(artifacts / "packed" / "meta.json", PackedMeta),
        config=_read(artifacts / "checkpoint" / "config.json", ModelConfig),
        model=_read(artifacts / "runs" / "train.json", Run),
        baseline=_read(artifacts / "runs" / "baseline.json", Run),
        loss=_read_losses(reports / "loss.csv"),
        baseline_loss=_read_losses(reports / "baseline_loss.csv"),
        snapshots=_read_rows(artifacts / "snapshots.jsonl", Snapshot),
        likelihood=_read(reports / "likelihood.json", Likelihood),
        real_text=_read(artifacts / "scores" / "real_text.json", Scores),
        by_steps={n: _read_at_steps(artifacts, n) for n in sorted(step_counts)},
    )
    for num_steps, at in experiment.by_steps.items():
        if at.scores.scorer != experiment.scorer:
            raise PipelineError(
                f"{artifacts}/scores/{num_steps}.json was scored by {at.scores.scorer}, "
                f"real_text.json by {experiment.scorer}: figures of different scorers cannot stand "
                "in one table; run `dvc repro`"
            )
    return experiment


def _read_at_steps(artifacts: Path, num_steps: int) -> AtSteps:
    samples = artifacts / "samples"
    at = AtSteps(
        samples=_read_rows(samples / f"{num_steps}.jsonl", Sample),
        trace=_read(samples / f"{num_steps}.trace.json", Trace),
        timing=_read(samples / f"{num_steps}.timing.json", Timing),
        scores=_read(artifacts / "scores" / f"{num_steps}.json", Scores),
    )
    for found in (at.trace, at.timing, at.scores):
        if found.num_steps != num_steps:
            raise PipelineError(
                f"the {type(found).__name__.lower()} file of {num_steps} steps in {artifacts} "
                f"is of {found.num_steps} steps; run `dvc repro`"
            )
    times = {tuple(state.t for state in states) for states in at.trace.samples}
    if len(times) > 1:
        raise PipelineError(
            f"{samples}/{num_steps}.trace.json: all samples must have their states at the same "
            f"times (got {len(times)} different lists)"
        )
    return at


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PipelineError(f"{path} is missing: run `dvc repro`") from None


def _read(path: Path, kind: type[R]) -> R:
    return parsed_as(kind, _bytes(path), str(path))


def _read_rows(path: Path, kind: type[R]) -> list[R]:
    # Not splitlines(): JSON text may hold U+2028, which is a line's end to Python.
    lines = _bytes(path).rstrip(b"\n").split(b"\n")
    return [parsed_as(kind, line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line]


def _optional(cell: str) -> float | None:
    return None if cell == "" else float(cell)


def _read_losses(path: Path) -> LossCurve:
    try:
        rows = list(csv.DictReader(_bytes(path).decode().splitlines()))
        return LossCurve(
            step=[int(row["step"]) for row in rows],
            train_loss=[_optional(row["train_loss"]) for row in rows],
            eval_loss=[_optional(row["eval_loss"]) for row in rows],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PipelineError(
            f"{path} is damaged: columns step, train_loss and eval_loss must hold numbers ({error})"
        ) from None
