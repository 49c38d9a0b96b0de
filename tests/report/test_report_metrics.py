import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_files import SCORER, likelihood, read, scores, write_json, write_temperatures

from pipeline.files import write_json as write_metrics
from pipeline.report.experiment import Experiment
from pipeline.report.metrics import headlines, results, write_by_steps

ROW = {
    "gen_ppl",
    "gen_ppl_stderr",
    "gen_ppl_mean_of_exp",
    "gen_ppl_sedd",
    "gen_ppl_mdlm",
    "entropy",
    "entropy_per_sample",
    "entropy_per_sample_bits",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "rep_4",
    "self_bleu",
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


def test_headlines_are_few_and_those_of_one_step_count(experiment: Experiment) -> None:
    # DVC sets a column for each, of its name's width and two; beside it goes what was changed.
    assert len(headlines(experiment, 64)) <= 10
    assert sum(len(key) + 2 for key in headlines(experiment, 64)) <= 100
    at, held_out = scores(64), likelihood()
    assert headlines(experiment, 64) == {
        "num_steps": 64,
        **{key: at[key] for key in ("gen_ppl", "gen_ppl_stderr", "entropy", "well_formed", "nfe")},
        "bound_bpb": held_out["bound_bits_per_byte"],
        "baseline_bpb": held_out["baseline_bits_per_byte"],
    }


def test_results_json_has_exactly_the_agreed_keys(experiment: Experiment, tmp_path: Path) -> None:
    write_metrics(tmp_path / "results.json", results(experiment, 64))
    found = strictly((tmp_path / "results.json").read_text())
    assert set(found) == {
        "gen_ppl",
        "entropy",
        "scorer",
        "likelihood",
        "by_steps",
        "by_temperature",
        "real_text",
        "references",
    }
    assert list(found["by_steps"]) == ["1", "4", "16", "64", "128"]
    assert all(set(row) == ROW for row in [*found["by_steps"].values(), found["real_text"]])
    assert found["likelihood"] == likelihood()
    assert found["scorer"] == f"baseline@{SCORER['sha256'][:12]}"


def test_figures_are_those_of_the_files(experiment: Experiment) -> None:
    found = results(experiment, 64)
    expected = scores(64)
    assert found["gen_ppl"] == found["by_steps"]["64"]["gen_ppl"] == expected["gen_ppl"]
    assert found["entropy"] == expected["entropy"]
    assert found["by_steps"]["1"]["gen_ppl"] == scores(1)["gen_ppl"]
    assert found["by_steps"]["4"]["seconds"] == experiment.by_steps[4].timing.seconds
    assert found["real_text"]["gen_ppl"] == 7.81
    assert found["real_text"]["seconds"] is None


def test_samples_at_other_temperatures_stand_beside_those_at_their_own(files: Path) -> None:
    write_temperatures(files, [0.5])
    found = results(read(files, temperatures=[0.5]), 128)["by_temperature"]
    assert list(found) == ["0.5", "1.0"]
    assert found["0.5"]["gen_ppl"] == pytest.approx(found["1.0"]["gen_ppl"] / 2)
    assert set(found["0.5"]) == ROW


def test_what_could_not_be_measured_is_null_and_an_empty_cell(files: Path, tmp_path: Path) -> None:
    nothing = {"num_scored": 0, "gen_ppl": None, "gen_ppl_stderr": None, "distinct_3": None}
    write_json(files / "artifacts/sweep/scores/1.json", scores(1) | nothing)
    experiment = read(files, [1, 4, 128])
    write_metrics(tmp_path / "results.json", results(experiment, 1))
    found = strictly((tmp_path / "results.json").read_text())
    assert found["gen_ppl"] is headlines(experiment, 1)["gen_ppl"] is None
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
