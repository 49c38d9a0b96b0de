"""Where the time of a training step and of sampling goes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from benchmarks import sample, train
from benchmarks.machine import Machine, measure_machine, median_seconds
from benchmarks.measure import Step
from benchmarks.rows import floor_text
from benchmarks.shapes import config_of
from pipeline.errors import reported
from pipeline.table import aligned

NUM_ROWS = 10
FEW_STEPS = 8

PROFILED: dict[str, Callable[[], Step]] = {
    "train_gpt2_plain": partial(train.plain, "gpt2", "raw"),
    "train_gpt2_ours": partial(train.ours, "gpt2", "raw"),
    "train_char_plain": partial(train.plain, "char", "raw"),
    "train_char_ours": partial(train.ours, "char", "raw"),
    "sample_names_plain": partial(sample.plain, "char", timed=FEW_STEPS),
    "sample_names_raw": partial(sample.ours, "char", "raw", num_steps=FEW_STEPS),
    "sample_names_cached": partial(sample.ours, "char", "conditional"),
    "sample_gpt2_plain": partial(sample.plain, "gpt2", timed=1),
    "sample_gpt2_cached": partial(sample.ours, "gpt2", "conditional", num_steps=FEW_STEPS),
}


@reported
def profile(
    only: Annotated[list[str] | None, typer.Option(help="What to profile.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the traces and tables.")] = Path(
        "reports/profile"
    ),
) -> None:
    """Write a trace and the ten largest rows of training steps and of sampling."""
    machine = measure_machine()
    out.mkdir(parents=True, exist_ok=True)
    tables = [
        profiled(name, PROFILED[name](), machine, out / f"{name}.trace.json")
        for name in only or PROFILED
    ]
    text = (
        f"matrix rate {machine.flops / 1e9:.0f} GFLOP/s, copying {machine.bytes / 1e9:.1f} GB/s\n\n"
        + "\n\n".join(tables)
    )
    (out / "table.txt").write_text(text + "\n", encoding="utf-8")
    print(text)


def profiled(name: str, step: Step, machine: Machine, trace: Path) -> str:
    """A heading with the step's rates, and its largest rows; the trace goes to a file."""
    seconds = median_seconds(step, 3)
    with profiler(activities=[ProfilerActivity.CPU]) as found:
        step()
    found.export_chrome_trace(str(trace))
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    lines = [("share", "self ms", "calls", "operation")]
    lines += [
        (
            f"{row.self_cpu_time_total / total:.1%}",
            f"{row.self_cpu_time_total / 1e3:.2f}",
            str(row.count),
            row.key,
        )
        for row in rows[:NUM_ROWS]
    ]
    return f"{name}: {speed(name, seconds, machine)}\n{aligned(lines)}"


def speed(name: str, seconds: float, machine: Machine) -> str:
    """Time of a run; for training also tokens a second, the matrix rate's share and the floors."""
    if not name.startswith("train"):
        return f"{seconds:.4g} s"
    _, size, side = name.split("_")
    flops = train.step_flops(size, "raw", 1.0 if side == "plain" else 0.5)
    tokens = train.BATCH[size] * config_of(size, "raw").length
    return (
        f"{tokens / seconds:,.0f} tokens/s, {flops / seconds / machine.flops:.0%} of the matrix "
        f"rate; floors: {floor_text(machine, flops, train.step_bytes(size, 'raw'), seconds)}"
    )
