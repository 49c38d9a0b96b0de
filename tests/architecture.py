"""Draw docs/architecture.svg from the imports: `python tests/architecture.py`.

An arrow that others imply (cli -> data, since cli -> evaluation -> data) is left out, and so are
the benchmarks, which import much and which nothing imports.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from imports import imports_in, loose_files, room_arrows
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve
from matplotlib.transforms import Bbox

PROJECT = Path(__file__).parents[1]
PICTURE = PROJECT / "docs" / "architecture.svg"
LOOSE = loose_files(PROJECT)
LOOSE_TEXT = f"for all: {', '.join(sorted(LOOSE))}"

# Where a room's middle is, and what the room is.
PLACES = {
    "stages": (4.1, 8.0, "one file a stage of dvc.yaml"),
    "cli": (8.3, 8.0, "sedd: what a person types"),
    "report": (0.7, 7.0, "the page"),
    "tracking": (2.4, 7.0, "runs, in MLflow"),
    "zeroshot": (4.2, 7.0, "published sets"),
    "publishing": (6.0, 7.0, "results, to Oxen"),
    "baseline": (7.75, 7.0, "GPT-2"),
    "huggingface": (6.4, 6.1, "for transformers"),
    "evaluation": (3.6, 5.2, "figures of samples"),
    "oxen": (5.5, 5.2, "repositories: local, server"),
    "training": (9.0, 5.2, "the loop"),
    "harness": (10.8, 5.2, "lm-eval"),
    "references": (1.2, 5.2, "published figures"),
    "data": (4.7, 4.2, "documents to blocks"),
    "checkpoints": (8.2, 4.2, "ours, the paper's"),
    "config": (2.2, 3.2, "params.yaml"),
    "methods": (5.6, 2.3, "protocol, registry; sedd/"),
    "network": (8.6, 1.4, "transformer parts"),
    "scale": (10.5, 1.4, "units, ranks"),
    "kernels": (8.6, 0.5, "only there to be fast"),
    "loose": (5.6, -0.4, LOOSE_TEXT),
}
WIDTH, HEIGHT = 1.6, 0.52
WIDTHS = {"loose": 11.4, "stages": 2.4, "cli": 2.4, "oxen": 1.9, "methods": 1.9}
COLOURS = {"stages": "#1f5fa8", "cli": "#b3541e"}
GREY = "#555555"


def drawn_arrows() -> set[tuple[str, str]]:
    """Arrows between rooms, without those that others imply; loose files are one room."""
    arrows = [
        tuple("loose" if room in LOOSE else room for room in arrow)
        for arrow in room_arrows(imports_in(PROJECT))
    ]
    return reduced((a, b) for a, b in arrows if a != b and a != "benchmarks")


def reduced(arrows: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """The transitive reduction of arrows without a circle."""
    after: dict[str, set[str]] = {}
    for start, end in arrows:
        after.setdefault(start, set()).add(end)

    def reached(room: str) -> set[str]:
        nearest = after.get(room, set())
        return nearest.union(*map(reached, nearest))

    return {
        (start, end)
        for start, nearest in after.items()
        for end in nearest
        if not any(end in reached(other) for other in nearest)
    }


def draw(path: Path) -> None:
    """Write the picture, its rooms with the ids room-ROOM and its arrows arrow-ROOM-ROOM."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "architecture", "font.size": 9}):
        figure = Figure(figsize=(11.5, 9.0))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.2, 11.7), ylim=(-0.8, 8.4))
        axes.set_axis_off()
        arrows = sorted(drawn_arrows())
        for start, end in arrows:
            axes.add_patch(_arrow(start, end, arrows))
        for room in PLACES:
            _add_box(axes, room)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def curve(start: str, end: str, arrows: list[tuple[str, str]]) -> Curve:
    """The way of one of the arrows, from the bottom of a room to the top of another."""
    x0 = _port(start, end, [b for a, b in arrows if a == start])
    x1 = x0 if end == "loose" else _port(end, start, [a for a, b in arrows if b == end])
    y0, y1 = PLACES[start][1] - HEIGHT / 2, PLACES[end][1] + HEIGHT / 2
    middle = (y0 + y1) / 2
    return Curve(
        [(x0, y0), (x0, middle), (x1, middle), (x1, y1)], [Curve.MOVETO, *[Curve.CURVE4] * 3]
    )


def box(room: str) -> Bbox:
    """Where a room is."""
    (x, y, _), width = PLACES[room], WIDTHS.get(room, WIDTH)
    return Bbox.from_bounds(x - width / 2, y - HEIGHT / 2, width, HEIGHT)


def _arrow(start: str, end: str, arrows: list[tuple[str, str]]) -> FancyArrowPatch:
    return FancyArrowPatch(
        path=curve(start, end, arrows),
        arrowstyle="-|>",
        mutation_scale=10,
        color=COLOURS.get(start, GREY),
        linewidth=1.1,
        gid=f"arrow-{start}-{end}",
    )


def _port(room: str, other: str, others: list[str]) -> float:
    """Where on a side of `room` the arrow from or to `other` is: in the order of their places."""
    ordered = sorted(others, key=lambda name: PLACES[name][0])
    share = (ordered.index(other) + 1) / (len(ordered) + 1) - 0.5
    return PLACES[room][0] + share * WIDTHS.get(room, WIDTH)


def _add_box(axes: Axes, room: str) -> None:
    (x, y, what), place = PLACES[room], box(room)
    axes.add_patch(
        FancyBboxPatch(
            place.p0,
            place.width,
            place.height,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor="#eef3f8",
            edgecolor=COLOURS.get(room, GREY),
            gid=f"room-{room}",
        )
    )
    title = "loose files" if room == "loose" else room
    axes.text(x, y + 0.1, title, ha="center", va="center", weight="bold", size=11)
    axes.text(x, y - 0.13, what, ha="center", va="center", size=8.5, color="#333333")


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
