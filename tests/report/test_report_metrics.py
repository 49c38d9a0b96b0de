import csv
import json
from pathlib import Path
from typing import Any

import yaml
from report_files import SCORER, likelihood, scores, write_json

from pipeline.files import write_json as write_metrics
from pipeline.report.inputs import read_experiment
from pipeline.report.metrics import metrics, write_by_steps
from pipeline.report.records import Experiment

ROW = {
    "gen_ppl",
    "gen_ppl_stderr",
    "gen_ppl_mean_of_exp",
    "entropy",
    "entropy_per_sample",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "uniqueness",
    "novelty",
    "held_out",
    "well_formed",
    "invalid_utf8",
    "nfe",
    "seconds",
}


def strictly(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_metrics_json_has_exactly_the_agreed_keys(experiment: Experiment, tmp_path: Path) -> None:
    write_metrics(tmp_path / "metrics.json", metrics(experiment, 64))
    found = strictly((tmp_path / "metrics.json").read_text())
    assert set(found) == {"gen_ppl", "entropy", "scorer", "likelihood", "by_steps", "real_text"}
    assert list(found["by_steps"]) == ["1", "4", "16", "64", "128"]
    assert all(set(row) == ROW for row in [*found["by_steps"].values(), found["real_text"]])
    assert found["likelihood"] == likelihood()
    assert found["scorer"] == f"baseline@{SCORER['sha256'][:12]}"


def test_figures_are_those_of_the_files(experiment: Experiment) -> None:
    found = metrics(experiment, 64)
    expected = scores(64)
    assert found["gen_ppl"] == found["by_steps"]["64"]["gen_ppl"] == expected["gen_ppl"]
    assert found["entropy"] == expected["entropy"]
    assert found["by_steps"]["1"]["gen_ppl"] == scores(1)["gen_ppl"]
    assert found["by_steps"]["4"]["seconds"] == experiment.by_steps[4].timing.seconds
    assert found["real_text"]["gen_ppl"] == 7.81
    assert found["real_text"]["seconds"] is None


def test_what_could_not_be_measured_is_null_and_an_empty_cell(files: Path, tmp_path: Path) -> None:
    nothing = {"num_scored": 0, "gen_ppl": None, "gen_ppl_stderr": None, "distinct_3": None}
    write_json(files / "artifacts/scores/1.json", scores(1) | nothing)
    experiment = read_experiment(files / "artifacts", files / "reports", [1, 4])
    write_metrics(tmp_path / "metrics.json", metrics(experiment, 1))
    found = strictly((tmp_path / "metrics.json").read_text())
    assert found["gen_ppl"] is None
    assert found["by_steps"]["1"]["distinct_3"] is None
    write_by_steps(tmp_path / "by_steps.csv", experiment)
    with (tmp_path / "by_steps.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["gen_ppl"] == ""


def test_by_steps_csv_has_a_row_a_step_count_and_what_dvc_plots(
    experiment: Experiment, tmp_path: Path
) -> None:
    write_by_steps(tmp_path / "by_steps.csv", experiment)
    with (tmp_path / "by_steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["num_steps"] for row in rows] == ["1", "4", "16", "64", "128"]
    assert set(rows[0]) == {"num_steps"} | ROW
    assert float(rows[3]["entropy"]) == scores(64)["entropy"]
    graph = yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text())
    plotted = [
        (plot["x"], plot["y"]["reports/by_steps.csv"])
        for entry in graph["plots"]
        for plot in entry.values()
        if "reports/by_steps.csv" in plot["y"]
    ]
    assert plotted
    assert all({x, y} <= set(rows[0]) for x, y in plotted)
