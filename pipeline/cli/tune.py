"""`sedd tune`: which precision, compilation and pieces of a batch train fastest on this machine."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli import options
from pipeline.errors import PipelineError, reported

if TYPE_CHECKING:
    from pipeline.cli.trials import Choice, Job, Turn

PARAMS = Path("params.yaml")
PACKED = Path("artifacts/packed")
# Times faster than before that another arithmetic must be.
WORTH = 1.03


@reported
def tune(
    rounds: Annotated[int, typer.Option("--rounds", help="Turns of each choice.")] = 3,
    steps: Annotated[int, typer.Option("--steps", help="Timed training steps a turn.")] = 12,
    device: options.Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the trials, and write nothing.")
    ] = False,
) -> None:
    """Try precision, compilation and accumulate in real training steps; write the fastest.

    Trials take turns, so that a machine that slows down or speeds up decides nothing. Only
    train.precision, train.compile and train.accumulate of params.yaml change, after all trials.
    They change the arithmetic, so that the next `dvc repro` trains anew.
    """
    options.check_range("--rounds", rounds, 1)
    options.check_range("--steps", steps, 1)
    device = options.pick_device_name(device)
    from pipeline.device import memory_for

    job = _job(device)
    _introduce(job)
    with memory_for("pack.length"):
        first = _first_trials(job, rounds, steps)
        last = _last_trials(job, _fastest(job, first), rounds, steps)
    best = _best(job, last)
    print(_table(job, first | last, best))
    _write(job, best, dry_run)


def _job(device: str) -> "Job":
    from pipeline.cli.trials import Job
    from pipeline.config.params import load_params
    from pipeline.data.packed import Packed
    from pipeline.device import pick_device

    params = load_params(PARAMS)
    if params.train.num_steps == 0:
        raise PipelineError("train.num_steps is 0: there is no training to tune")
    if not PACKED.is_dir():
        raise PipelineError(f"no packed data in {PACKED}: run `dvc repro pack` first")
    packed = Packed.open(PACKED)
    if packed.meta.length != params.pack.length:
        raise PipelineError(
            f"the blocks in {PACKED} hold {packed.meta.length} tokens, and pack.length is "
            f"{params.pack.length}: run `dvc repro pack` first"
        )
    return Job(params, packed, pick_device(device))


def _introduce(job: "Job") -> None:
    import torch

    from pipeline.device import device_label, has_bfloat16, why_not_compiled

    threads = f" ({torch.get_num_threads()} threads)" if job.device.type == "cpu" else ""
    batch = f"{job.params.train.batch_size} blocks of {job.packed.meta.length} tokens"
    print(f"{device_label(job.device)}{threads}, torch {torch.__version__}: steps of {batch}")
    if not has_bfloat16(job.device):
        print("bfloat16 is emulated: this processor has no instructions for it")
    if reason := why_not_compiled(job.device):
        print(f"compilation is not tried: {reason}")


def _first_trials(job: "Job", rounds: int, steps: int) -> "dict[Choice, list[Turn]]":
    """Precision and compilation, in the fewest pieces that fit."""
    from pipeline.cli.trials import Choice, pieces_that_fit
    from pipeline.device import why_not_compiled

    least = pieces_that_fit(job, "float32")[0]
    compiled: list[bool | Literal["graphs"]] = [False]
    if not why_not_compiled(job.device):
        compiled.append(True)
        if job.device.type == "cuda":
            compiled.append("graphs")
    choices = [Choice(name, flag, least) for flag in compiled for name in ("float32", "bfloat16")]
    return _turns(job, choices, rounds, steps)


def _last_trials(job: "Job", best: "Choice", rounds: int, steps: int) -> "dict[Choice, list[Turn]]":
    """The best precision and compilation in more and fewer pieces, beside what params.yaml says."""
    from pipeline.cli.trials import pieces_that_fit
    from pipeline.device import why_not_compiled

    # Narrower numbers take less memory, so that larger pieces may fit.
    fitting = pieces_that_fit(job, best.precision)
    choices = [best, *(replace(best, accumulate=pieces) for pieces in fitting[:3])]
    now = _now(job)
    if now.accumulate in fitting and not (now.compile and why_not_compiled(job.device)):
        choices.append(now)
    return _turns(job, list(dict.fromkeys(choices)), rounds, steps)


def _turns(
    job: "Job", choices: "list[Choice]", rounds: int, steps: int
) -> "dict[Choice, list[Turn]]":
    from pipeline.cli.trials import take_turns
    from pipeline.progress import progress

    turns: dict[Choice, list[Turn]] = {choice: [] for choice in choices}
    bar = progress(total=rounds * len(choices), desc="tune", unit="turn")
    with bar:
        for choice, turn in take_turns(job, choices, rounds, steps):
            if isinstance(turn, str):
                print(f"{choice}: {turn}", file=sys.stderr)
                del turns[choice]
                continue
            turns[choice].append(turn)
            bar.set_postfix_str(f"{choice}: {1e3 * turn.seconds:.0f} ms a step", refresh=False)
            bar.update()
    if not turns:
        raise PipelineError("none of these could train; `dvc repro train` says why")
    return turns


def _now(job: "Job") -> "Choice":
    from pipeline.cli.trials import Choice
    from pipeline.training.run import settings_of

    now = settings_of(job.params, job.device)
    return Choice(now.precision, job.params.train.compile, now.accumulate)


def _fastest(job: "Job", turns: "dict[Choice, list[Turn]]") -> "Choice":
    return min(turns, key=lambda choice: job.training_seconds(turns[choice]))


def _best(job: "Job", turns: "dict[Choice, list[Turn]]") -> "Choice":
    """The fastest, or what params.yaml says unless that is slower in every round, and worth it."""
    best, now = _fastest(job, turns), _now(job)
    if now not in turns:
        return best
    slower = [
        job.training_seconds([before]) > job.training_seconds([after])
        for before, after in zip(turns[now], turns[best], strict=True)
    ]
    gain = job.training_seconds(turns[now]) / job.training_seconds(turns[best])
    return best if all(slower) and gain > WORTH else now


def _table(job: "Job", turns: "dict[Choice, list[Turn]]", best: "Choice") -> str:
    from pipeline.table import aligned

    lines = [["precision", "compile", "accumulate", "tokens/s", "first step", "memory", "training"]]
    for choice, taken in turns.items():
        rate = job.num_tokens / median(turn.seconds for turn in taken)
        memory = median(turn.held + turn.risen for turn in taken)
        lines.append(
            [
                choice.precision,
                str(choice.compile).lower(),
                str(choice.accumulate),
                f"{rate:,.0f}",
                f"{median(turn.first for turn in taken):.1f} s",
                f"{memory / 1e6:,.0f} MB",
                f"{job.training_seconds(taken):,.0f} s" + (" <- best" if choice == best else ""),
            ]
        )
    return aligned(lines)


def _write(job: "Job", best: "Choice", dry_run: bool) -> None:
    from pipeline.config.edits import edit_yaml

    before, after = asdict(_now(job)), asdict(best)
    values = {f"train.{key}": after[key] for key in after if after[key] != before[key]}
    if not values:
        print(f"{PARAMS} stays: nothing is faster in every round, and by {WORTH - 1:.0%}")
        return
    if not dry_run:
        edit_yaml(PARAMS, values)
    told = ", ".join(f"{key}: {str(value).lower()}" for key, value in values.items())
    print(f"{PARAMS} {'would change' if dry_run else 'changed'}: {told}")
    print("this changes the arithmetic: the next `dvc repro` trains anew")
