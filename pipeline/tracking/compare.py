"""Runs side by side. Only runs with one scorer stand in one group: others cannot be compared."""

import math
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

from pipeline.table import aligned, shown
from pipeline.tracking.store import connected, database_missing, tracking_uri

COLUMNS = (
    "name",
    "steps",
    "gen_ppl",
    "entropy",
    "bound_nats_per_char",
    "bound_stderr",
    "method",
    "data",
    "started",
)
UNKNOWN = "–"
# Runs that MLflow gives at once.
MOST = 50_000


@dataclass(frozen=True)
class RunRow:
    """One run; None where it does not say, as while it is being written."""

    run_id: str
    name: str
    steps: int | None
    gen_ppl: float | None
    entropy: float | None
    bound_nats_per_char: float | None
    bound_stderr: float | None
    method: str | None
    scorer: str | None
    data_commit: str | None
    started: datetime
    num_texts: float | None = None
    """Texts that were evaluated, where there were others: `evaluate.num_texts`."""
    by_temperature: dict[float, tuple[float, float]] = field(default_factory=dict)
    """gen_ppl and entropy of its samples at other temperatures, and at its own."""


def runs(uri: str, experiment: str) -> list[RunRow]:
    """The runs that this pipeline tracked in an MLflow experiment, newest first.

    Args:
        uri: `tracking.uri` of params.yaml; MLFLOW_TRACKING_URI wins.
        experiment: `tracking.experiment`; a missing one has no runs.
    Raises:
        PipelineError: the store cannot be used.
    """
    uri = tracking_uri(uri)
    if database_missing(uri):
        return []
    with connected(uri) as client:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return []
        ours = client.search_runs(
            [found.experiment_id],
            "tags.fingerprint LIKE '%'",
            max_results=MOST,
            order_by=["attributes.start_time DESC"],
        )
        return [_row(run, _by_temperature(client, run)) for run in ours]


def format_table(rows: list[RunRow]) -> str:
    """A table for each scorer, lowest gen_ppl first; without runs, how to make one.

    Below it the curves over temperature of those runs that have one.
    """
    if not rows:
        return "no runs yet: `dvc repro` makes one, `dvc exp run -S steps=1024` another"
    rows = sorted(rows, key=lambda row: math.inf if row.gen_ppl is None else row.gen_ppl)
    groups = groupby(sorted(rows, key=_scorer), key=_scorer)
    return "\n\n".join(
        f"scorer {shown(scorer) or 'unknown'}, lowest gen_ppl first\n{_tables(list(group))}"
        for scorer, group in groups
    )


def _by_temperature(client: Any, run: Any) -> dict[float, tuple[float, float]]:
    keys = ("by_temperature/gen_ppl", "by_temperature/entropy")
    if not run.data.metrics.keys() >= set(keys):
        return {}
    # The last value of a step is the newest.
    histories = (client.get_metric_history(run.info.run_id, key) for key in keys)
    gen_ppl, entropy = ({point.step: point.value for point in points} for points in histories)
    return {
        step / 1000: (gen_ppl[step], entropy[step])
        for step in sorted(gen_ppl.keys() & entropy)
        if math.isfinite(gen_ppl[step]) and math.isfinite(entropy[step])
    }


def _row(run: Any, by_temperature: dict[float, tuple[float, float]]) -> RunRow:
    params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
    numbers = {
        key: None if math.isnan(metrics.get(key, math.nan)) else metrics[key]
        for key in ("gen_ppl", "entropy", "bound_nats_per_char", "bound_stderr")
    }
    return RunRow(
        run_id=run.info.run_id,
        name=run.info.run_name,
        steps=int(params["steps"]) if "steps" in params else None,
        method=_method(params),
        scorer=tags.get("scorer"),
        data_commit=tags.get("data_commit"),
        started=datetime.fromtimestamp(run.info.start_time / 1000).astimezone(),
        num_texts=_part(metrics),
        by_temperature=by_temperature,
        **numbers,
    )


def _part(metrics: dict[str, float]) -> float | None:
    """How many texts the bound is of, if of a part of the held-out ones."""
    num = metrics.get("num_texts")
    return None if num == metrics.get("num_texts_of", num) else num


def _method(params: dict[str, str]) -> str | None:
    """The method of a run, and which variant of it."""
    graph = params.get("diffusion.graph")
    kind = params.get(f"diffusion.{graph}.parameterization") or params.get("embedding.recipe")
    return kind and f"{params.get('method', 'sedd')} {kind}"


def _scorer(row: RunRow) -> str:
    return row.scorer or ""


def _tables(rows: list[RunRow]) -> str:
    table = aligned([COLUMNS, *(_cells(row) for row in rows)])
    swept = [row for row in rows if row.by_temperature]
    if not swept:
        return table
    temperatures = sorted({value for row in swept for value in row.by_temperature})
    lines = [["gen_ppl at entropy", *(f"T {value:g}" for value in temperatures)]]
    for row in swept:
        points = [row.by_temperature.get(value) for value in temperatures]
        shown_points = [f"{p[0]:.2f} at {p[1]:.3f}" if p else UNKNOWN for p in points]
        lines.append([row.name, *shown_points])
    return f"{table}\n\n{aligned(lines)}"


def _cells(row: RunRow) -> tuple[str, ...]:
    return (
        row.name,
        UNKNOWN if row.steps is None else str(row.steps),
        _number(row.gen_ppl, 2),
        _number(row.entropy, 3),
        _number(row.bound_nats_per_char, 4)
        + ("" if row.num_texts is None else f" of {row.num_texts:,.0f} texts"),
        _number(row.bound_stderr, 4),
        row.method or UNKNOWN,
        (row.data_commit or UNKNOWN)[:8],
        f"{row.started:%Y-%m-%d %H:%M}",
    )


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"
