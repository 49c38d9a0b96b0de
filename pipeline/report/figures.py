"""The curves as inline SVG, drawn in the page's own colours so that they follow its theme."""

import io
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullLocator

from pipeline.report.experiment import Experiment, LossCurve
from pipeline.report.records import Scores

# matplotlib writes colours as hex; these stand for the page's CSS variables.
INK, LINE, SEDD, GPT2, REAL = "#a00001", "#a00002", "#a00003", "#a00004", "#a00005"
_VARIABLES = {
    INK: "var(--muted)",
    LINE: "var(--line)",
    SEDD: "var(--sedd)",
    GPT2: "var(--gpt2)",
    REAL: "var(--real)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "ytick.left": False,
    "axes.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Curves:
    """The page's figures, each one an `<svg>` element."""

    loss: str
    gen_ppl: str
    entropy: str
    frontier: str


def draw(experiment: Experiment, steps: int) -> Curves:
    """Draw the losses over training, generative perplexity and entropy over sampling steps.

    And one against the other, over temperatures at `steps` and over sampling steps.
    """
    with matplotlib.rc_context(_STYLE):
        return Curves(
            loss=_losses(experiment),
            gen_ppl=_over_steps(experiment, "gen_ppl", log=True),
            entropy=_over_steps(experiment, "entropy", log=False),
            frontier=_frontier(experiment, steps),
        )


def _losses(experiment: Experiment) -> str:
    figure, axes = _axes()
    for curve, colour in ((experiment.baseline_loss, GPT2), (experiment.loss, SEDD)):
        _loss(axes, curve, colour)
    axes.set_xlabel("training steps")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    settled = [
        loss for curve in (experiment.loss, experiment.baseline_loss) for loss in _settled(curve)
    ]
    if settled:
        low, high = min(settled), max(settled)
        margin = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
    return _svg(figure, "Loss of train and held-out blocks over training steps")


def _loss(axes: Axes, curve: LossCurve, colour: str) -> None:
    for losses, style in (
        (curve.train_loss, {"linewidth": 1, "alpha": 0.5}),
        (curve.eval_loss, {"marker": "o"}),
    ):
        known = [(s, loss) for s, loss in zip(curve.step, losses, strict=True) if loss is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour, **style)


def _settled(curve: LossCurve) -> list[float]:
    """Losses after the first twentieth of training, whose fall would flatten all the rest."""
    return [
        loss
        for step, train, held_out in zip(curve.step, curve.train_loss, curve.eval_loss, strict=True)
        if step >= curve.step[-1] / 20
        for loss in (train, held_out)
        if loss is not None and math.isfinite(loss)
    ]


def _over_steps(experiment: Experiment, name: str, *, log: bool) -> str:
    figure, axes = _axes()
    real = getattr(experiment.real_text, name)
    spread = getattr(experiment.real_text, f"{name}_stderr") or 0.0
    if real is not None:
        axes.axhspan(real - spread, real + spread, color=REAL, alpha=0.15, linewidth=0)
        axes.axhline(real, color=REAL, linewidth=1.4, linestyle=(0, (5, 3)))
    counts = list(experiment.by_steps)
    values = [_number(getattr(at.scores, name)) for at in experiment.by_steps.values()]
    errors = [
        _number(getattr(at.scores, f"{name}_stderr"), 0.0) for at in experiment.by_steps.values()
    ]
    axes.errorbar(counts, values, errors, color=SEDD, marker="o", capsize=3, elinewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlim(counts[0] / 1.3, counts[-1] * 1.3)
    axes.xaxis.set_minor_locator(NullLocator())
    shown = _apart(counts)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{count:,}" for count in shown]))
    axes.set_xlabel("sampling steps")
    if log:
        _log_scale(axes, [_number(real), *values])
    return _svg(figure, f"{name} over sampling steps, beside the level of real text")


def _frontier(experiment: Experiment, steps: int) -> str:
    figure, axes = _axes()
    by_steps = {f"{n:,}": at.scores for n, at in experiment.by_steps.items()}
    # Between its ends the curve's labels would run into each other.
    ends = {f"{n:,}" for n in (min(experiment.by_steps), steps)}
    frontier = experiment.frontier(steps).items()
    by_temperature = {f"T {value:g}": at.scores for value, at in frontier}
    drawn = [
        *_curve(axes, by_steps, experiment.frontier_entropy, INK, "dotted", shown=ends),
        *_curve(axes, by_temperature, experiment.frontier_entropy, SEDD, "solid"),
        *_curve(axes, {"real text": experiment.real_text}, experiment.frontier_entropy, REAL, ""),
    ]
    axes.margins(x=0.12)
    axes.set_xlabel("entropy, nats")
    _log_scale(axes, drawn)
    return _svg(figure, "Generative perplexity by entropy, beside real text")


def _curve(
    axes: Axes,
    points: dict[str, Scores],
    entropy: str,
    colour: str,
    line: str,
    shown: Collection[str] | None = None,
) -> list[float]:
    """Draw the points of a curve, with labels, or with those that are `shown`; their perplexities.

    Those stand on the left, others on the right.
    """
    x = [_number(getattr(scores, entropy)) for scores in points.values()]
    y = [_number(scores.gen_ppl) for scores in points.values()]
    errors = [_number(scores.gen_ppl_stderr, 0.0) for scores in points.values()]
    axes.errorbar(x, y, errors, color=colour, linestyle=line, marker="o", elinewidth=1.2)
    place, side = ((6, -4), "left") if shown is None else ((-6, 3), "right")
    text: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": side,
        "color": colour,
        "fontsize": 8.5,
    }
    for label, *at in zip(points, x, y, strict=True):
        if (shown is None or label in shown) and all(map(math.isfinite, at)):
            axes.annotate(label, (at[0], at[1]), place, **text)
    return y


def _log_scale(axes: Axes, values: list[float]) -> None:
    """A logarithmic y axis for perplexities, if any is known."""
    if not any(map(math.isfinite, values)):
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Plain numbers at 1, 2 and 5 of each decade, or only at the decades when there are many.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _number(value: float | None, missing: float = math.nan) -> float:
    return missing if value is None else value


def _apart(counts: list[int]) -> list[int]:
    """The counts whose labels do not run into each other, the largest ones first."""
    width = math.log(counts[-1] / counts[0]) or 1.0
    shown: list[int] = []
    for count in reversed(counts):
        if not shown or math.log(shown[0] / count) / width > 0.09:
            shown.insert(0, count)
    return shown


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.0, 3.1), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    # Several figures share one page: only ids that something points to may stay, made its own.
    name = re.sub(r"\W+", "-", label.split(",")[0].lower())
    targets = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in targets else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"| xmlns(:\w+)?="[^"]+"| version="[^"]+"', "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
