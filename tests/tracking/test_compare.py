"""Runs as a table, scorers apart."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.tracking.compare import RunRow, format_table, runs
from pipeline.tracking.mlflow import track
from pipeline.tracking.record import Point, Record
from pipeline.tracking.store import local_uri

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ROW = RunRow(
    run_id="1",
    name="one",
    steps=128,
    gen_ppl=12.3456,
    entropy=2.5,
    bound_nats_per_char=2.25,
    bound_stderr=0.01,
    method="sedd conditional",
    scorer="baseline@0123456789ab",
    data_commit="c0ffee1234567890",
    started=datetime(2026, 7, 1, 12, 30, tzinfo=UTC),
)


def names(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines() if line]


def test_scorers_are_never_ranked_together() -> None:
    rows = [
        ROW,
        replace(ROW, name="best", gen_ppl=9.0),
        replace(ROW, name="unscored", gen_ppl=None),
        replace(ROW, name="large", gen_ppl=1.0, scorer="gpt2-large@ffffffffffff"),
    ]
    first, second = format_table(rows).split("\n\n")
    assert first.startswith("scorer baseline@0123456789ab, lowest gen_ppl first\n")
    assert names(first) == ["scorer", "name", "best", "one", "unscored"]
    assert second.startswith("scorer gpt2-large@ffffffffffff")
    assert names(second) == ["scorer", "name", "large"]


def test_cells() -> None:
    table = format_table([ROW, replace(ROW, name="a longer name", bound_nats_per_char=None)])
    header, one, other = table.splitlines()[1:]
    assert " ".join(one.split()) == (
        "one 128 12.35 2.500 2.2500 0.0100 sedd conditional c0ffee12 2026-07-01 12:30"
    )
    assert other.index("–") == header.index("bound_nats_per_char")
    assert " 2.2500 of 1,024 texts " in format_table([replace(ROW, num_texts=1024.0)])


def test_a_curve_over_temperatures_is_a_line_a_run() -> None:
    curve = {0.8: (9.5, 3.0), 1.0: (12.3456, 2.5)}
    rows = [
        replace(ROW, name="none"),
        replace(ROW, name="swept", by_temperature=curve),
        replace(ROW, name="other", by_temperature={1.2: (20.0, 3.25)}),
    ]
    _, curves = format_table(rows).split("\n\n")
    assert [line.split("  ")[0] for line in curves.splitlines()] == [
        "gen_ppl at entropy",
        "swept",
        "other",
    ]
    header, swept, other = (" ".join(line.split()) for line in curves.splitlines())
    assert header == "gen_ppl at entropy T 0.8 T 1 T 1.2"
    assert swept == "swept 9.50 at 3.000 12.35 at 2.500 –"
    assert other == "other – – 20.00 at 3.250"


def test_no_runs_says_how_to_make_one() -> None:
    assert "dvc repro" in format_table([])


def test_an_untouched_store_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert runs("local", "names") == []
    assert list(tmp_path.iterdir()) == []


def test_runs_of_this_pipeline(project: Path, record: Callable[..., Record]) -> None:
    assert runs("local", "names") == []
    curve = [Point("by_temperature/gen_ppl", 1000, 12.5), Point("by_temperature/gen_ppl", 800, 9.0)]
    curve += [Point("by_temperature/entropy", 800, 3.0), Point("by_temperature/entropy", 1000, 2.5)]
    points = [*record().points, *curve, Point("num_texts", 0, 8), Point("num_texts_of", 0, 40)]
    made = track(record(points=points), uri="local", experiment="names")
    client = MlflowClient(tracking_uri=local_uri())
    experiment = client.get_experiment_by_name("names")
    assert experiment is not None
    client.create_run(experiment.experiment_id, run_name="somebody else's")
    half = client.create_run(experiment.experiment_id, tags={"fingerprint": "e"}, run_name="half")
    client.log_metric(half.info.run_id, "gen_ppl", float("nan"))
    (new, old) = runs("local", "names")
    by_t = {0.8: (9.0, 3.0), 1.0: (12.5, 2.5)}
    assert replace(old, started=ROW.started) == replace(
        ROW,
        run_id=made.run_id,
        name="0123456",
        steps=16,
        gen_ppl=12.5,
        num_texts=8,
        by_temperature=by_t,
    )
    assert (new.name, new.gen_ppl, new.scorer) == ("half", None, None)
    assert "scorer unknown" in format_table([new, old])
