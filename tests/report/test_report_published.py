"""`sedd references` reads the last run as the report does, and says what it differs in."""

import shutil

from report_files import STEP_COUNTS, write_json
from tiny_project import PROJECT
from typer.testing import CliRunner

from pipeline.cli import app


def test_the_last_run_is_beside_what_it_was_not_trained_on(files, monkeypatch):
    monkeypatch.chdir(files)
    shutil.copy(PROJECT / "params.yaml", files)
    write_json(files / "reports/metrics.json", {"num_steps": STEP_COUNTS[-1]})
    result = CliRunner().invoke(app, ["references"])
    assert (result.exit_code, result.stderr) == (0, "")
    *_, text8, mdlm, _ = result.stdout.splitlines()
    assert ", bits a character: ≤ " in text8
    assert "in no table: pack.mode pad, the table's is stream; " in text8
    assert f"; {STEP_COUNTS[-1]:,} steps, the table's 1,024" in mdlm
