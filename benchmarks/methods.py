"""Pictures of docs/methods.md, from the artifacts of one finished project of each method.

python -m benchmarks.methods SEDD/artifacts EMBEDDING/artifacts
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1] / "docs"
NAMES = ("SEDD", "embedding diffusion")
COLOURS = ("#3355cc", "#b8541a")
REAL = "#2c7a58"
NUM_ROWS = 12
STEPS = 128


def states_of(artifacts: Path) -> list[tuple[float, str]]:
    """Some states of the first traced sample, those that differ, as (t, text)."""
    trace = json.loads((artifacts / "samples" / f"{STEPS}.trace.json").read_text())["samples"][0]
    last, found = None, []
    for state in trace:
        if state["text"] != last:
            found.append((state["t"], state["text"]))
        last = state["text"]
    places = [round(k * (len(found) - 1) / (NUM_ROWS - 1)) for k in range(NUM_ROWS)]
    return [found[place] for place in sorted(set(places))]


def draw_states(axes: Axes, name: str, colour: str, artifacts: Path) -> None:
    """A sample as it forms, noise on top; what is new in a row is coloured."""
    before = ""
    for row, (t, text) in enumerate(states_of(artifacts)):
        axes.text(-1.2, -row, f"t = {t:.2f}", ha="right", va="center", fontsize=8, color="#666")
        for place, glyph in enumerate(text):
            new = glyph != "░" and before[place : place + 1] != glyph
            axes.text(
                *(place, -row, glyph),
                ha="center",
                va="center",
                family="monospace",
                color=colour if new else "#bbb" if glyph == "░" else "#222",
                weight="bold" if new else "normal",
            )
        before = text
    axes.set_xlim(-5, len(before))
    axes.set_ylim(-NUM_ROWS, 1)
    axes.set_title(name, fontsize=10)
    axes.axis("off")


def scores_of(artifacts: Path) -> list[dict[str, Any]]:
    """What was scored at each step count, fewest steps first."""
    folders = artifacts / "scores", artifacts / "sweep" / "scores"
    files = {int(path.stem): path for folder in folders for path in folder.glob("[0-9]*.json")}
    return [json.loads(files[steps].read_text()) for steps in sorted(files)]


def draw_frontier(axes: Axes, name: str, colour: str, artifacts: Path, horizontal: str) -> None:
    """Generative perplexity over entropy, or over network evaluations, a point a step count."""
    rows = scores_of(artifacts)
    values = [row[horizontal] for row in rows], [row["gen_ppl"] for row in rows]
    axes.plot(*values, color=colour, marker="o", label=name)
    for x, y, row in zip(*values, rows, strict=True):
        axes.annotate(
            str(row["num_steps"]),
            (x, y),
            textcoords="offset points",
            xytext=(5, 5),
            fontsize=8,
            color=colour,
        )


def main(folders: list[Path]) -> None:
    """Draw docs/denoising.png and docs/frontier.png."""
    sides = list(zip(NAMES, COLOURS, folders, strict=True))
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=110)
    for axes, side in zip(figure.subplots(1, 2), sides, strict=True):
        draw_states(axes, *side)
    figure.savefig(DOCS / "denoising.png")

    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=110)
    panels = zip(figure.subplots(1, 2), ("entropy", "nfe"), strict=True)
    real = json.loads((folders[0] / "scores" / "real_text.json").read_text())
    for axes, horizontal in panels:
        for side in sides:
            draw_frontier(axes, *side, horizontal)
        axes.axhline(real["gen_ppl"], color=REAL, linestyle="--", label="real names")
        axes.set_yscale("log")
        axes.set_ylabel("generative perplexity")
        axes.spines[["top", "right"]].set_visible(False)
        if horizontal == "entropy":
            axes.axvline(real["entropy"], color=REAL, linestyle="--")
            axes.set_xlabel("entropy of the samples' tokens, nats; at a point its steps")
        else:
            axes.set_xscale("log")
            axes.set_xlabel("network evaluations a sample")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(DOCS / "frontier.png")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
