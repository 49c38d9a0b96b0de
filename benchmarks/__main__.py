"""The bench: every speed-up against the plain formulation, in one run on one machine.

python -m benchmarks --help
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import (
    bound,
    curves,
    embedding,
    oxen,
    pack,
    push,
    ranks,
    sample,
    score,
    startup,
    to_bound,
    train,
)
from benchmarks import profile as profiling
from benchmarks.machine import Machine, measure_machine
from benchmarks.report import line, machine_text, table
from benchmarks.rows import Plan, Row
from pipeline.errors import ParamsError, reported
from pipeline.files import write_json
from pipeline.progress import progress

Group = Callable[[Plan, Machine], list[Row]]
GROUPS: dict[str, Group] = {
    "train_gpt2": train.train_gpt2,
    "train_char": train.train_char,
    "time_to_bound_names": to_bound.time_to_bound_names,
    "sample_names": sample.sample_names,
    "sample_gpt2": sample.sample_gpt2,
    "train_gpt2_embedding": embedding.train_gpt2_embedding,
    "sample_gpt2_embedding": embedding.sample_gpt2_embedding,
    "train_with_push": push.train_with_push,
    "train_ranks": ranks.train_ranks,
    "pack_gpt2": pack.pack_gpt2,
    "score_gpt2": score.score_gpt2,
    "bound_small": bound.bound_small,
    "oxen_fetch": oxen.oxen_fetch,
    "exp_run_1024": startup.exp_run_1024,
    "start_up": startup.start_up,
}
LONG = {
    "oxen_fetch": "MB/s",
    "time_to_bound_names": "s",
    "train_gpt2_embedding": "tokens/s",
    "sample_gpt2_embedding": "samples/s",
    "train_with_push": "tokens/s",
    "train_ranks": "tokens/s",
    "exp_run_1024": "s",
    "bound_small": "tokens/s",
}
"""Rows that only a full bench runs, with their units."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
@reported
def bench(
    quick: Annotated[bool, typer.Option(help="Fewer runs: at most three minutes.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Rows to run, by group.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print the table for a page.")] = False,
    out: Annotated[Path, typer.Option(help="Where rows go, as groups end.")] = Path(
        "reports/bench.json"
    ),
) -> None:
    """Print the table, and write its rows to a file."""
    unknown = [name for name in only or [] if name not in GROUPS]
    if unknown:
        raise ParamsError(f"--only: one of {', '.join(GROUPS)} (got {', '.join(unknown)})")
    rows: list[Row] = []
    machines: list[Machine] = []
    for found, machine in measured(only or list(GROUPS), quick=quick):
        rows += found
        machines += [machine] if machine else []
        # Now, and not at the end: a group that fails takes no other with it.
        write_json(out, [row.asdict() for row in rows])
    if machines:
        print(machine_text(machines, torch.get_num_threads()) + "\n")
    print(table(rows, markdown=markdown))
    if any(row.too_slow for row in rows):
        print("error: an opponent is too slow to prove anything", file=sys.stderr)
        raise typer.Exit(1)


def measured(names: list[str], *, quick: bool) -> Iterator[tuple[list[Row], Machine | None]]:
    """The rows of each group named, with the machine's rates just before, if it was run."""
    for place, name in enumerate(names, start=1):
        if quick and name in LONG:
            yield [Row(name, LONG[name], notes=("not run: `make bench` does",))], None
            continue
        machine = measure_machine()
        with progress(desc=f"{place}/{len(names)} {name}", unit="run") as bar:
            rows = GROUPS[name](Plan(quick, bar.update), machine)
        for row in rows:
            print(line(row), file=sys.stderr)
        yield rows, machine


app.command("profile")(profiling.profile)
app.command("curves")(curves.curves)

if __name__ == "__main__":
    app()
