"""Names of samplers, what goes with what, and what is wrong with a request: no tensors here.

params.yaml, the command line and models ask the same questions, and get the same answers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, get_args

PredictorName = Literal[
    "auto", "analytic", "euler", "cached", "first_hitting", "ddim", "ddpm", "draw"
]
Grid = Literal["uniform", "cosine"]
Order = Literal["random", "confidence", "margin", "entropy_bound"]
Corrector = Literal[
    "none", "cap", "rescale", "loop", "forward_backward", "conf", "gibbs", "low_confidence"
]
REMASKING: tuple[Corrector, ...] = ("cap", "rescale", "loop", "forward_backward")
"""Correctors that are schedules of kappa by time."""
SWEEPING: tuple[Corrector, ...] = ("gibbs", "low_confidence")
"""Correctors that redraw some positions after each step."""


@dataclass(frozen=True)
class Stepping:
    """When a step sampler steps, which positions it takes first, and what it takes back.

    Attributes:
        grid: times of the steps.
        order: which positions are revealed first.
        gamma: of order `entropy_bound`, nats.
        corrector: what takes tokens back.
        eta: of schedules of kappa and of `conf`, how much they take back.
        hold: of `loop`, the time at which half of the steps are spent.
        num_redrawn: of `gibbs` and `low_confidence`, positions after each step.
    """

    grid: Grid = "uniform"
    order: Order = "random"
    gamma: float = 0.1
    corrector: Corrector = "none"
    eta: float = 0.1
    hold: float = 0.1
    num_redrawn: int = 1

    @property
    def keeps_law(self) -> bool:
        """Whether the law tends to the model's own as steps are added.

        `loop` always redraws some positions together; what is chosen by the model is chosen so.
        """
        by_model = self.corrector in ("conf", "low_confidence") or self.order != "random"
        return not by_model and self.corrector != "loop"

    def said(self) -> dict[str, str | float | int]:
        """What of it is not as usual, and matters."""
        s, said = self, dict[str, str | float | int]()
        if s.grid != "uniform":
            said["grid"] = s.grid
        if s.order != "random":
            said["order"] = s.order
        if s.order == "entropy_bound":
            said["gamma"] = s.gamma
        if s.corrector != "none":
            said["corrector"] = s.corrector
        if s.corrector in (*REMASKING, "conf"):
            said["eta"] = s.eta
        if s.corrector == "loop":
            said["hold"] = s.hold
        if s.corrector in SWEEPING:
            said["num_redrawn"] = s.num_redrawn
        return said


PLAIN = Stepping()


@dataclass(frozen=True)
class Conditioning:
    """What texts are asked for.

    Attributes:
        labels: by column what the value is called; others are not said.
        guidance: w of log p_w = (1 - w) log p + w log p(given the labels), normalised for each
            token that is drawn: 1 the conditional law, 0 the unconditional one.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    guidance: float = 1.0

    @property
    def evaluates_twice(self) -> bool:
        """Whether the network is asked with the labels and without them."""
        return bool(self.labels) and self.guidance not in (0, 1)

    def said(self) -> dict[str, Mapping[str, str] | float]:
        """What it is recorded as; nothing where nothing is asked for."""
        return {"labels": self.labels, "guidance": self.guidance} if self.labels else {}


UNCONDITIONAL = Conditioning()


def values_of(labels: Iterable[str]) -> dict[str, str]:
    """Values by column, of Column=value.

    Raises:
        ValueError: one is not of that form, or of a column that was named before.
    """
    values: dict[str, str] = {}
    for label in labels:
        column, _, value = label.partition("=")
        if not column or not value or column in values:
            raise ValueError(f"must be Column=value, each column once (got {label})")
        values[column] = value
    return values


def each_combination(
    labels: Mapping[str, Sequence[str]], guidance: float = 1.0
) -> list[Conditioning]:
    """Every combination of values, the last column's fastest; of no labels the one of none."""
    rows = product(*labels.values())
    return [Conditioning(dict(zip(labels, row, strict=True)), guidance) for row in rows]


@dataclass(frozen=True)
class Abilities:
    """What the samplers of a kind of model can do."""

    predictors: tuple[str, ...]
    grids: tuple[str, ...] = get_args(Grid)
    orders: tuple[str, ...] = ("random",)
    correctors: tuple[str, ...] = ("none",)
    sharpens: bool = True
    takes_labels: bool = False


ABILITIES: Mapping[str, Abilities] = {
    "absorb conditional": Abilities(
        ("analytic", "euler", "cached", "first_hitting"),
        orders=get_args(Order),
        correctors=("none", *REMASKING, "conf"),
        takes_labels=True,
    ),
    "absorb raw": Abilities(("analytic", "euler")),
    "uniform conditional": Abilities(
        ("analytic", "euler"), correctors=("none", *REMASKING, *SWEEPING), takes_labels=True
    ),
    "uniform raw": Abilities(("analytic", "euler"), correctors=("none", *SWEEPING), sharpens=False),
    "embedding": Abilities(("ddpm", "ddim", "draw"), grids=("uniform",)),
}
"""Of SEDD by graph and parameterization, of other methods by their name."""


def misuses(
    kind: str,
    model: str,
    predictor: str,
    temperature: float,
    top_p: float,
    stepping: Stepping,
    key: str = "",
) -> list[str]:
    """All that is wrong with a request, a line each.

    Args:
        kind: of model, a key of ABILITIES.
        model: what that is called where it was chosen.
        predictor: as the others, what is asked for.
        temperature: see `Sharpening`.
        top_p: see `Sharpening`.
        stepping: see there.
        key: what stands before the names of values.
    """
    can, s = ABILITIES[kind], stepping
    choices = {
        "predictor": (predictor, ("auto", *can.predictors)),
        "grid": (s.grid, can.grids),
        "order": (s.order, can.orders),
        "corrector": (s.corrector, can.correctors),
    }
    found = [
        f"{key}{name} must be {_one_of(allowed)} with {model} (got {value})"
        for name, (value, allowed) in choices.items()
        if value not in allowed
    ]
    ranges = {
        "temperature": (temperature, 0 < temperature < math.inf, "a number above 0"),
        "top_p": (top_p, 0 < top_p <= 1, "above 0 and at most 1"),
        "gamma": (s.gamma, 0 <= s.gamma < math.inf, "a number of at least 0"),
        "eta": (s.eta, 0 < s.eta <= 1, "above 0 and at most 1"),
        "hold": (s.hold, 0 < s.hold < 1, "above 0 and less than 1"),
        "num_redrawn": (s.num_redrawn, s.num_redrawn >= 1, "at least 1"),
    }
    found += [
        f"{key}{name} must be {allowed} (got {value})"
        for name, (value, is_allowed, allowed) in ranges.items()
        if not is_allowed
    ]
    if not can.sharpens:
        found += [
            f"{key}{name} must be 1 with {model}, which has no distribution of tokens to sharpen "
            f"(got {value})"
            for name, value in (("temperature", temperature), ("top_p", top_p))
            if value != 1
        ]
    return found + _together(predictor, stepping, key)


def label_misuses(
    known: Mapping[str, Sequence[str] | None], asked: Conditioning, key: str = ""
) -> list[str]:
    """All that is wrong with what texts are asked for, a line each.

    Args:
        known: what values are called, by column, of the labels that the model is trained with;
            None where only the data say.
        asked: labels and guidance.
        key: what stands before the names of values.
    """
    w = asked.guidance
    if not known and (asked.labels or w != 1):
        got = [f"{column}={value}" for column, value in asked.labels.items()]
        return [
            f"{key}labels and {key}guidance are of models that were trained with data.labels, "
            f"which this one was not (got {', '.join([*got, f'guidance {w:g}'])})"
        ]
    found = []
    for column, value in asked.labels.items():
        if column not in known:
            found.append(f"{key}labels must be of {_one_of(tuple(known))} (got {column}={value})")
        elif (values := known[column]) is not None and value not in values:
            allowed = _one_of(tuple(values))
            found.append(f"{key}labels: {column} must be {allowed} (got {value})")
    if not 0 <= w < math.inf:
        found.append(f"{key}guidance must be a number of at least 0 (got {w})")
    elif not asked.labels and w != 1:
        found.append(f"{key}guidance must be 1 where no label is asked for (got {w})")
    return found


def _together(predictor: str, stepping: Stepping, key: str) -> list[str]:
    """What is wrong with values that are right each by itself."""
    s, found = stepping, []
    at_once = ("auto", "analytic", "cached")
    if s.order != "random" and s.corrector != "none":
        found.append(
            f"{key}corrector must be none with {key}order {s.order}: a position is revealed in "
            f"its turn once (got {s.corrector})"
        )
    needs = [f"order {s.order}"] * (s.order != "random")
    needs += [f"corrector {s.corrector}"] * (s.corrector in (*REMASKING, "conf"))
    if needs and predictor not in at_once:
        found.append(
            f"{key}predictor must be {_one_of(at_once)} with {key}{needs[0]}, which decides the "
            f"step (got {predictor})"
        )
    without = [f"predictor {predictor}"] * (predictor == "first_hitting")
    without += [f"order {s.order}"] * (s.order == "entropy_bound")
    if without and s.grid != "uniform":
        found.append(
            f"{key}grid must be uniform with {key}{without[0]}, which has no times to choose "
            f"(got {s.grid})"
        )
    return found


def _one_of(names: tuple[str, ...]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
