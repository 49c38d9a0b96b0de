"""The table for the terminal and for a page, and reports/bench.json."""

from collections.abc import Sequence

from benchmarks.machine import Machine
from benchmarks.rows import SLOW, Figure, Row
from pipeline.table import aligned

HEADER = (
    "row", "plain", "ours", "unit", "ratio", "to reach", "reached", "share plain", "share ours",
    "peak plain", "peak ours", "runs",
)  # fmt: skip


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def figure_text(figure: Figure | None) -> str:
    """Median and range."""
    if figure is None:
        return "–"
    low, high = min(figure.values), max(figure.values)
    spread = "" if len(figure.values) == 1 else f" ({number(low)}–{number(high)})"
    return number(figure.median) + spread


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def megabytes(figure: Figure | None) -> str:
    return "–" if figure is None or figure.peak_mb is None else f"{figure.peak_mb:,.0f} MB"


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    share = percent(row.plain.share if row.plain else None)
    if row.reference_share is not None and row.plain is not None:
        share += f" of {percent(row.reference_share)}"
    return (
        row.name,
        figure_text(row.plain),
        figure_text(row.ours),
        row.unit,
        "–" if row.ratio is None else f"{row.ratio:.2f}x",
        "; ".join(check.text for check in row.checks),
        "; ".join("yes" if check.reached else "NO" for check in row.checks),
        share,
        percent(row.ours.share if row.ours else None),
        megabytes(row.plain),
        megabytes(row.ours),
        str(len(row.ours.values) if row.ours else 0),
    )


def remarks(row: Row) -> list[str]:
    """What is said of a row below the table."""
    said = list(row.notes)
    if row.floor:
        said.insert(0, f"floors: {row.floor}")
    if row.too_slow and row.plain is not None:
        said.append(
            f"opponent too slow: plain reaches {percent(row.plain.share)} of the matrix rate, less "
            f"than {SLOW:.0%} of the {percent(row.reference_share)} that is known of it"
        )
    return said


def line(row: Row) -> str:
    """A row in short, for who waits."""
    ratio = "" if row.ratio is None else f", {row.ratio:.2f}x"
    bars = "; ".join(f"{check.text}: {'yes' if check.reached else 'NO'}" for check in row.checks)
    said = "not run" if row.ours is None else "no bar"
    return f"{row.name}: {figure_text(row.ours)} {row.unit}{ratio} ({bars or said})"


def machine_text(machines: Sequence[Machine], threads: int) -> str:
    """The rates that shares and floors are of."""
    flops = [machine.flops / 1e9 for machine in machines]
    copied = [machine.bytes / 1e9 for machine in machines]
    return (
        f"matrix products, float32, 1,024 x 1,024, {threads} threads: "
        f"{min(flops):.0f}–{max(flops):.0f} GFLOP/s; "
        f"copying, read and written: {min(copied):.1f}–{max(copied):.1f} GB/s"
    )


def table(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """All rows, then what is said of each."""
    lines = [HEADER, *map(cells, rows)]
    if markdown:
        lines.insert(1, ("---",) * len(HEADER))
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        said = [f"- `{row.name}`: {remark}" for row in rows for remark in remarks(row)]
    else:
        text = aligned(lines)
        said = [f"{row.name}: {remark}" for row in rows for remark in remarks(row)]
    return "\n".join([text, "", *said])
