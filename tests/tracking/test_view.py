"""What MLflow's page opens with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.report.metrics import SCORES
from pipeline.tracking.mlflow import track
from pipeline.tracking.record import Record
from pipeline.tracking.store import local_uri
from pipeline.tracking.view import KIND, NAME, VIEW, address, experiment_tags

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def charts() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(experiment_tags()[VIEW])
    return kept


def test_charts_are_of_metrics_that_are_logged() -> None:
    cards, sections = charts()["compareRunCharts"], charts()["compareRunSections"]
    keys = {key for card in cards for key in card.get("selectedMetricKeys", [])}
    curves = {f"{curve}/{key}" for curve in ("by_steps", "by_temperature") for key in SCORES}
    losses = {"train_loss", "eval_loss"}
    scalars = {"gen_ppl", "real_text/gen_ppl", "bound_bits_per_byte", "baseline_bits_per_byte"}
    assert keys <= curves | losses | scalars
    assert keys & curves
    assert {card["metricSectionId"] for card in cards} == {part["uuid"] for part in sections}
    assert len({card["uuid"] for card in cards}) == len(cards)
    # MLflow keeps no longer tag of an experiment.
    assert len(experiment_tags()[VIEW]) < 5000


def test_an_experiment_is_of_training_unless_a_person_says_otherwise(
    project: Path, record: Callable[..., Record]
) -> None:
    track(record(), uri="local", experiment="names")
    client = MlflowClient(tracking_uri=local_uri())
    found = client.get_experiment_by_name("names")
    assert found is not None
    assert found.tags.items() >= experiment_tags().items()
    client.set_experiment_tag(found.experiment_id, KIND, "finetuning")
    client.set_experiment_tag(found.experiment_id, VIEW, "{}")
    track(record(), uri="local", experiment="names")
    tags = client.get_experiment(found.experiment_id).tags
    assert (tags[KIND], tags[VIEW]) == ("finetuning", experiment_tags()[VIEW])


def test_the_page_is_of_the_charts_where_there_is_an_experiment() -> None:
    page = "http://127.0.0.1:5000"
    assert address(page, None) == page
    assert address(page, "3").startswith(f"{page}/#/experiments/3/runs?")
    assert address(page, "3").endswith(f"viewStateShareKey={NAME}")
