"""Rows of the table: what was measured, what was to reach, and whether it was."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.machine import Machine
from benchmarks.measure import Measured

SLOW = 0.75
"""A plain row below this part of its known share is no opponent."""


@dataclass(frozen=True)
class Figure:
    """One side of a row.

    Attributes:
        values: one a run, in the row's unit.
        peak_mb: most memory above what was held before the run, in 10^6 bytes.
        share: part of the machine's matrix rate that it reaches; None where it has none.
    """

    values: list[float]
    peak_mb: float | None = None
    share: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Check:
    """A bar, and whether it was reached."""

    text: str
    reached: bool


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: as in reports/bench.json.
        unit: of both sides' values.
        checks: the bars.
        ours, plain: the sides; None where there is none, or where the row was not run.
        less_is_better: whether a smaller value is the better one.
        reference_share: share of the matrix rate that the paper's reference code is known to
            reach; a plain side far below it is too slow to prove anything.
        floor: the least time that our side's arithmetic and its bytes could take.
        notes: what else there is to know.
    """

    name: str
    unit: str
    checks: tuple[Check, ...] = ()
    ours: Figure | None = None
    plain: Figure | None = None
    less_is_better: bool = False
    reference_share: float | None = None
    floor: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if self.plain is None or self.ours is None:
            return None
        return times_better(self.plain.median, self.ours.median, self.less_is_better)

    @property
    def too_slow(self) -> bool:
        """Whether the plain side is slow by neglect."""
        if self.plain is None or self.plain.share is None or self.reference_share is None:
            return False
        return self.plain.share < SLOW * self.reference_share

    def asdict(self) -> dict[str, Any]:
        """The row of reports/bench.json."""
        plain, ours = self.plain, self.ours
        return {
            "name": self.name,
            "plain": plain.median if plain else None,
            "ours": ours.median if ours else None,
            "ratio": self.ratio,
            "share": ours.share if ours else None,
            "unit": self.unit,
            "plain_peak_mb": plain.peak_mb if plain else None,
            "ours_peak_mb": ours.peak_mb if ours else None,
            "runs": len(ours.values) if ours else 0,
        }


def times_better(plain: float, ours: float, less_is_better: bool) -> float:
    """How many times better ours is."""
    return plain / ours if less_is_better else ours / plain


def rate(measured: Measured, amount: float, machine: Machine, flops: float | None = None) -> Figure:
    """Units a second of runs that handle `amount` of them with so many operations each."""
    share = (
        None if flops is None else flops / measured.median / machine.during(measured.flops).flops
    )
    return Figure([amount / second for second in measured.seconds], measured.peak_mb, share)


def at_least(ratio: float, bar: float, what: str = "") -> Check:
    """The bar that ours is `bar` times better."""
    return Check(f"{bar:g}x{what}", ratio >= bar)


def floor_text(machine: Machine, flops: float, moved: float, seconds: float) -> str:
    """Both floors of work that took `seconds`."""
    arithmetic, bytes_ = machine.floor(flops, moved)
    return f"arithmetic {short(arithmetic)}, bytes {short(bytes_)}, taken {short(seconds)}"


def short(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


@dataclass(frozen=True)
class Plan:
    """How long a bench may take.

    Attributes:
        quick: whether it must end within three minutes.
        on_run: called after each run of a side, to show progress.
    """

    quick: bool
    on_run: Callable[[], object] = lambda: None

    def runs(self, full: int, quick: int) -> int:
        return quick if self.quick else full
