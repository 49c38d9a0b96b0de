import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from stages.report import main

ROOT = Path(__file__).parents[2]
write_experiment = runpy.run_path(str(ROOT / "tests/report/report_files.py"))["write_experiment"]
WRITTEN = ("metrics.json", "results.json", "by_steps.csv", "index.html")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the stage in a folder that holds an experiment, with changes to params.yaml."""
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(main)

    def run(**changes: Any) -> Result:
        params = yaml.safe_load((ROOT / "params.yaml").read_text()) | changes
        Path("params.yaml").write_text(yaml.safe_dump(params))
        return CliRunner().invoke(app, ["artifacts", "reports"])

    return run


def test_report_is_written_and_the_same_again(project: Callable[..., Result]) -> None:
    assert project(sweep=[64, 1, 4, 16], steps=128).exit_code == 0
    first = [Path("reports", name).read_bytes() for name in WRITTEN]
    assert project(sweep=[64, 1, 4, 16], steps=128).exit_code == 0
    assert [Path("reports", name).read_bytes() for name in WRITTEN] == first
    assert not list(Path("reports").glob(".*"))
    results = json.loads(Path("reports/results.json").read_text())
    assert list(results["by_steps"]) == ["1", "4", "16", "64", "128"]
    metrics = json.loads(Path("reports/metrics.json").read_text())
    assert metrics["gen_ppl"] == results["by_steps"]["128"]["gen_ppl"]


def test_steps_may_be_a_member_of_the_sweep(project: Callable[..., Result]) -> None:
    assert project(sweep=[1, 4, 128], steps=128).exit_code == 0
    results = json.loads(Path("reports/results.json").read_text())
    assert list(results["by_steps"]) == ["1", "4", "128"]
    assert results["entropy"] == results["by_steps"]["128"]["entropy"]
    lines = Path("reports/by_steps.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["num_steps", "1", "4", "128"]


@pytest.mark.parametrize("sweep", [[], [16], [1, 4, 16, 64, 128]])
def test_a_sweep_has_any_length(project: Callable[..., Result], sweep: list[int]) -> None:
    assert project(sweep=sweep, steps=128).exit_code == 0
    results = json.loads(Path("reports/results.json").read_text())
    assert list(results["by_steps"]) == [str(n) for n in sorted({*sweep, 128})]
    page = Path("reports/index.html").read_text()
    assert page.count('class="texts" data-steps=') == len(results["by_steps"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep": [1, 256]}, "artifacts/sweep/samples/256.jsonl is missing: run `dvc repro`"),
        ({"sweep": 4}, "params.yaml: sweep: Input should be a valid list (got 4)"),
        ({"steps": [128]}, "params.yaml: steps: Input should be a valid integer"),
        ({"steps": 0}, "params.yaml: steps: Input should be greater than or equal to 1"),
        ({"steps": 32}, "artifacts/samples/32.jsonl is missing: run `dvc repro`"),
    ],
)
def test_wrong_input_is_one_message_and_nothing_written(
    project: Callable[..., Result], changes: dict[str, Any], message: str
) -> None:
    result = project(**changes)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {message}")
    assert "Traceback" not in result.output
    assert not [name for name in WRITTEN if Path("reports", name).exists()]
