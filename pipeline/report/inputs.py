"""Reading of what earlier stages have written, checked on the way in."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.errors import PipelineError
from pipeline.files import parsed_as
from pipeline.report.experiment import AtSteps, Experiment, LossCurve
from pipeline.report.records import (
    Likelihood,
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
MOST_SNAPSHOTS = 20
"""Of a long training, which has left tens of MB."""


def read_experiment(
    artifacts: Path,
    reports: Path,
    *,
    steps: int,
    sweep: Sequence[int],
    temperatures: Sequence[float] = (),
) -> Experiment:
    """Read what the stages before the report have written.

    Args:
        steps: the step count whose samples stand in `artifacts` itself.
        sweep: others, which stand in the folder of sweeps.
        temperatures: there too, of samples at `steps`.
    Raises:
        PipelineError: a file is missing, damaged or of another step count, or texts were scored
            by different scorers.
    """
    swept = artifacts / "sweep"
    folders = dict.fromkeys(sweep, swept) | {steps: artifacts}
    experiment = Experiment(
        provenance=_read(artifacts / "provenance.json", Provenance),
        packed=_read(artifacts / "packed" / "meta.json", PackedMeta),
        config=_read(artifacts / "checkpoint" / "config.json", ModelConfig),
        model=_read(artifacts / "runs" / "train.json", Run),
        baseline=_read(artifacts / "runs" / "baseline.json", Run),
        loss=_read_losses(reports / "loss.csv"),
        baseline_loss=_read_losses(reports / "baseline_loss.csv"),
        snapshots=_read_snapshots(artifacts / "snapshots.jsonl"),
        likelihood=_read(reports / "likelihood.json", Likelihood),
        real_text=_read(artifacts / "scores" / "real_text.json", Scores),
        by_steps={n: _read_at(folders[n], str(n), n) for n in sorted(folders)},
        by_temperature={
            value: _read_at(swept, f"temperature-{value}", steps) for value in sorted(temperatures)
        },
    )
    files = {folders[n] / "scores" / f"{n}.json": at for n, at in experiment.by_steps.items()}
    for value, at in experiment.by_temperature.items():
        files[swept / "scores" / f"temperature-{value}.json"] = at
    for path, at in files.items():
        if at.scores.scorer != experiment.scorer:
            raise PipelineError(
                f"{path} was scored by {at.scores.scorer}, "
                f"real_text.json by {experiment.scorer}: figures of different scorers cannot stand "
                "in one table; run `dvc repro`"
            )
    return experiment


def _read_at(folder: Path, name: str, num_steps: int) -> AtSteps:
    samples = folder / "samples"
    at = AtSteps(
        samples=_read_rows(samples / f"{name}.jsonl", Sample),
        trace=_read(samples / f"{name}.trace.json", Trace),
        timing=_read(samples / f"{name}.timing.json", Timing),
        scores=_read(folder / "scores" / f"{name}.json", Scores),
    )
    for found in (at.trace, at.timing, at.scores):
        if found.num_steps != num_steps:
            raise PipelineError(
                f"the {type(found).__name__.lower()} file of {name} in {folder} must be of "
                f"{num_steps} steps (got {found.num_steps}): run `dvc repro`"
            )
    times = {tuple(state.t for state in states) for states in at.trace.samples}
    if len(times) > 1:
        raise PipelineError(
            f"{samples}/{name}.trace.json: all samples must have their states at the same "
            f"times (got {len(times)} different lists)"
        )
    return at


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _missing(path) from None


def _missing(path: Path) -> PipelineError:
    return PipelineError(f"{path} is missing: run `dvc repro`")


def _read(path: Path, kind: type[R]) -> R:
    return parsed_as(kind, _bytes(path), str(path))


def _read_rows(path: Path, kind: type[R]) -> list[R]:
    # Not splitlines(): JSON text may hold U+2028, which is a line's end to Python.
    lines = _bytes(path).rstrip(b"\n").split(b"\n")
    return [parsed_as(kind, line, f"{path}:{i}") for i, line in enumerate(lines, 1) if line]


def _read_snapshots(path: Path) -> list[Snapshot]:
    """Some that are evenly spaced, the first and the last among them."""
    try:
        with path.open("rb") as file:
            num = sum(1 for _ in file)
        last = min(num, MOST_SNAPSHOTS) - 1
        chosen = {k * (num - 1) // max(last, 1) for k in range(last + 1)}
        with path.open("rb") as file:
            return [
                parsed_as(Snapshot, line, f"{path}:{i + 1}")
                for i, line in enumerate(file)
                if i in chosen
            ]
    except FileNotFoundError:
        raise _missing(path) from None


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
