"""The table, reports/bench.json and what the bench refuses."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks import __main__ as bench
from benchmarks.machine import Machine
from benchmarks.measure import Measured
from benchmarks.report import table
from benchmarks.rows import Check, Figure, Row, at_least, rate
from pipeline.errors import PipelineError

KEYS = ["name", "plain", "ours", "ratio", "share", "unit", "plain_peak_mb", "ours_peak_mb", "runs"]
MACHINE = Machine(flops=100e9, bytes=10e9)


def speed(plain_share: float = 0.4) -> Row:
    return Row(
        "train",
        "tokens/s",
        (at_least(4.0, 3),),
        ours=Figure([400.0, 390.0, 410.0], 20.0, 0.6),
        plain=Figure([100.0, 90.0, 110.0], 100.0, plain_share),
        reference_share=0.43,
        notes=("a note",),
    )


def memory() -> Row:
    return Row(
        "memory",
        "MB",
        (Check("at most 1/5", False),),
        ours=Figure([30.0]),
        plain=Figure([120.0]),
        less_is_better=True,
    )


def start() -> Row:
    return Row("start", "s", ours=Figure([0.2, 0.3, 0.4]), less_is_better=True)


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(bench, "measure_machine", lambda: MACHINE)


def test_a_row_of_the_file():
    assert speed().asdict() == dict(
        zip(KEYS, ["train", 100.0, 400.0, 4.0, 0.6, "tokens/s", 100.0, 20.0, 3], strict=True)
    )


def test_less_memory_is_better():
    assert memory().ratio == 4


def test_no_opponent_no_ratio():
    row = start().asdict()
    assert list(row) == KEYS
    assert (row["plain"], row["ours"], row["ratio"], row["share"]) == (None, 0.3, None, None)


def test_a_rate_and_its_share():
    figure = rate(Measured([2.0, 1.0, 4.0], 5.0, {}), 10, MACHINE, flops=100e9)
    assert (figure.values, figure.share, figure.peak_mb) == ([5.0, 10.0, 2.5], 0.5, 5.0)


def test_the_table_shows_spread_bars_and_memory():
    text = table([speed(), memory(), start()])
    for shown in ("400 (390–410)", "4.00x", "3x", "yes", "NO", "40% of 43%", "100 MB", "a note"):
        assert shown in text
    assert "too slow" not in text


def test_markdown_has_as_many_cells_in_every_line():
    lines = [line for line in table([speed(), start()], markdown=True).splitlines() if "|" in line]
    assert len({line.count("|") for line in lines}) == 1


def test_the_bench_writes_every_row(tmp_path, monkeypatch, machine):
    monkeypatch.setattr(bench, "GROUPS", {"a": lambda *_: [speed()], "b": lambda *_: [start()]})
    out = tmp_path / "reports" / "bench.json"
    done = CliRunner().invoke(bench.app, ["bench", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "train: 400 (390–410) tokens/s, 4.00x (3x: yes)" in done.output
    rows = json.loads(out.read_text())
    assert [row["name"] for row in rows] == ["train", "start"]
    assert all(list(row) == KEYS for row in rows)


def test_a_group_that_fails_leaves_the_rows_before_it(tmp_path, monkeypatch, machine):
    def fails(*_: object) -> list[Row]:
        raise PipelineError("benchmark b failed: no memory")

    monkeypatch.setattr(bench, "GROUPS", {"a": lambda *_: [speed()], "b": fails})
    out = tmp_path / "bench.json"
    done = CliRunner().invoke(bench.app, ["bench", "--out", str(out)])
    assert done.exit_code == 1
    assert "error: benchmark b failed: no memory" in done.output
    assert [row["name"] for row in json.loads(out.read_text())] == ["train"]


def test_a_quick_bench_names_what_it_leaves_out(machine):
    rows = [row for rows, _ in bench.measured(list(bench.LONG), quick=True) for row in rows]
    assert {row.name for row in rows} == set(bench.LONG)
    assert all(row.asdict()["ours"] is None and row.notes for row in rows)


def test_a_quick_bench_of_what_it_leaves_out_alone(tmp_path):
    arguments = ["bench", "--quick", "--only", "exp_run_1024", "--out", str(tmp_path / "out.json")]
    done = CliRunner().invoke(bench.app, arguments)
    assert done.exit_code == 0, done.output
    assert "not run" in done.output


def test_an_opponent_that_is_too_slow_fails_the_bench(tmp_path, monkeypatch, machine):
    monkeypatch.setattr(bench, "GROUPS", {"a": lambda *_: [speed(plain_share=0.3)]})
    done = CliRunner().invoke(bench.app, ["bench", "--out", str(tmp_path / "bench.json")])
    assert done.exit_code == 1
    assert "opponent too slow" in done.output
    assert (tmp_path / "bench.json").is_file()


def test_three_quarters_of_the_known_share_is_enough():
    assert speed(plain_share=0.76 * 0.43).too_slow is False
    assert speed(plain_share=0.74 * 0.43).too_slow is True


def test_an_unknown_row_is_refused(machine):
    done = CliRunner().invoke(bench.app, ["bench", "--only", "everything"])
    assert done.exit_code == 1
    assert "got everything" in done.output
