import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_files import (
    STEP_COUNTS,
    folder_of,
    read,
    real_text,
    scores,
    write_experiment,
    write_json,
    write_temperatures,
)

from pipeline.report.experiment import Experiment, LossCurve
from pipeline.report.figures import draw


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_same_figures_every_time(experiment: Experiment) -> None:
    assert draw(experiment, 64) == draw(experiment, 64)


def test_figures_fit_into_one_page(experiment: Experiment) -> None:
    curves = draw(experiment, 64)
    page = curves.loss + curves.gen_ppl + curves.entropy
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', page)) == set(ids)
    assert "http" not in page
    assert "<?xml" not in page
    assert "#a0000" not in page
    assert all(f"var(--{name})" in page for name in ("sedd", "gpt2", "real", "muted", "line"))


def test_step_counts_stand_on_the_axis(experiment: Experiment) -> None:
    shown = texts(draw(experiment, 64).gen_ppl)
    assert [text for text in shown if text in {str(n) for n in STEP_COUNTS}] == [
        str(n) for n in STEP_COUNTS
    ]
    assert "sampling steps" in shown


@pytest.mark.parametrize("counts", [(7,), (1, 2, 3, 1024, 1025)])
def test_one_step_count_and_crowded_ones(tmp_path: Path, counts: tuple[int, ...]) -> None:
    write_experiment(tmp_path, counts)
    experiment = read(tmp_path, counts)
    shown = texts(draw(experiment, 64).entropy)
    assert f"{counts[-1]:,}" in shown
    assert "1,024" not in shown


def test_quality_against_diversity_over_steps_and_temperatures(files: Path) -> None:
    without = texts(draw(read(files), 128).frontier)
    assert {"1", "128", "real text", "entropy, nats"} <= set(without)
    assert not [text for text in without if text.startswith("T ")]
    write_temperatures(files, [0.5, 2])
    experiment = read(files, temperatures=[0.5, 2])
    shown = texts(draw(experiment, 128).frontier)
    assert [text for text in shown if text.startswith("T ")] == ["T 0.5", "T 1", "T 2"]
    assert list(experiment.frontier(128)) == [0.5, 1.0, 2]


def test_missing_figures_leave_gaps(files: Path) -> None:
    nothing = {"gen_ppl": None, "gen_ppl_stderr": None, "entropy": None, "entropy_stderr": None}
    for n in STEP_COUNTS:
        write_json(folder_of(files, n) / f"scores/{n}.json", scores(n) | nothing)
    write_json(files / "artifacts/scores/real_text.json", real_text() | nothing)
    experiment = read(files)
    assert "var(--real)" not in draw(experiment, 64).gen_ppl


def test_perplexities_close_together_still_have_ticks(files: Path) -> None:
    for n in STEP_COUNTS:
        close = {"gen_ppl": 11.2 + n / 300, "gen_ppl_stderr": 0.01}
        write_json(folder_of(files, n) / f"scores/{n}.json", scores(n) | close)
    close = {"gen_ppl": 11.5, "gen_ppl_stderr": 0.01}
    write_json(files / "artifacts/scores/real_text.json", real_text() | close)
    experiment = read(files)
    assert "11.4" in texts(draw(experiment, 64).gen_ppl)


@pytest.mark.parametrize(
    "curve",
    [
        LossCurve([], [], []),
        LossCurve([5], [60.0], [None]),
        LossCurve([0], [None], [40.0]),
        LossCurve([10, 20], [float("nan"), float("inf")], [None, float("nan")]),
    ],
)
def test_short_and_diverged_losses(experiment: Experiment, curve: LossCurve) -> None:
    assert "training steps" in draw(replace(experiment, loss=curve), 64).loss
    assert "training steps" in draw(replace(experiment, loss=curve, baseline_loss=curve), 64).loss
