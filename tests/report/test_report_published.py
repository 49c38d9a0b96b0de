"""Figures of a run beside published ones, on the page, in results.json and in `sedd references`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_files import read, write_json
from tiny_project import PROJECT
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import DataError
from pipeline.files import write_json as write_results
from pipeline.references.trained import reported
from pipeline.report.metrics import results
from pipeline.report.page import render


def change(path: Path, values: dict[str, Any]) -> None:
    write_json(path, json.loads(path.read_text()) | values)


def test_the_last_run_is_beside_what_it_was_not_trained_on(experiment, files, monkeypatch):
    monkeypatch.chdir(files)
    shutil.copy(PROJECT / "params.yaml", files)
    write_results(files / "reports/results.json", results(experiment, 128))
    result = CliRunner().invoke(app, ["references"])
    assert (result.exit_code, result.stderr) == (0, "")
    *_, text8, mdlm, _ = result.stdout.splitlines()
    assert ", bits a character: ≤ " in text8
    assert "; in no table: pack.mode pad, the table's is stream; " in text8
    assert "; 128 steps, the table's 1,024" in mdlm
    page = render(experiment, steps=128, num_samples=2)
    assert "in no table: pack.mode pad, the table&#39;s is stream; " in page


def test_a_run_that_may_stand_there_has_its_table_on_the_page(files):
    blocks = {"train": 351_562, "test": 19_531}
    as_text8 = {"mode": "stream", "length": 256, "vocab_size": 27, "num_blocks": blocks}
    change(files / "artifacts/packed/meta.json", as_text8)
    bound = {"num_texts": 19_531, "bound_bits_per_char": 1.4213, "bound_stderr": 0.0693}
    change(files / "reports/likelihood.json", bound)
    experiment = read(files)
    [mine, *_] = results(experiment, 128)["references"]
    assert (mine["cells"], mine["differs"]) == (["≤ 1.421 ± 0.100"], [])
    page = render(experiment, steps=128, num_samples=2)
    assert "<td><b>≤ 1.421 ± 0.100</b></td>" in page
    assert "SEDD absorb" in page


def test_results_of_another_version_are_said(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"gen_ppl": 12.0}))
    with pytest.raises(DataError, match="of an older version: run dvc repro"):
        reported(tmp_path / "results.json")
