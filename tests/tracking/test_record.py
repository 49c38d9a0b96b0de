"""Files of other stages become metrics, curves and a dataset."""

import json
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.files import read_object
from pipeline.tracking.mlflow import dataset_input
from pipeline.tracking.record import (
    Point,
    as_text,
    loss_points,
    metric_points,
)

TRAIN = {
    "num_params": 7,
    "num_tokens": 100,
    "num_steps": 5,
    "seconds": 12.5,
    "tokens_per_second": 8.0,
    "device": "cpu",
}


def test_scalars_and_curves() -> None:
    metrics = {
        "gen_ppl": 12.0,
        "entropy": 2.5,
        "scorer": "baseline@0123456789ab",
        "likelihood": {"bound_nats_per_char": 2.25, "terms": {"prior": 0}},
        "by_steps": {"1": {"gen_ppl": 40.0, "seconds": 0.25}, "16": {"gen_ppl": None}},
        "by_temperature": {"0.8": {"gen_ppl": 30.0}},
        "real_text": {"gen_ppl": 8, "num_steps": None},
    }
    assert set(metric_points(metrics, TRAIN)) == {
        Point("gen_ppl", 0, 12.0),
        Point("entropy", 0, 2.5),
        Point("bound_nats_per_char", 0, 2.25),
        Point("terms/prior", 0, 0.0),
        Point("real_text/gen_ppl", 0, 8.0),
        Point("num_params", 0, 7.0),
        Point("num_tokens", 0, 100.0),
        Point("tokens_per_second", 0, 8.0),
        Point("train_seconds", 0, 12.5),
        Point("by_steps/gen_ppl", 1, 40.0),
        Point("by_steps/seconds", 1, 0.25),
        Point("by_temperature/gen_ppl", 800, 30.0),
    }


def test_losses_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    path.write_text("step,train_loss,eval_loss,lr\n10,30.5,,0.1\n20,25,26.0,0.05\n")
    assert list(loss_points(path)) == [
        Point("train_loss", 10, 30.5),
        Point("lr", 10, 0.1),
        Point("train_loss", 20, 25.0),
        Point("eval_loss", 20, 26.0),
        Point("lr", 20, 0.05),
    ]


@pytest.mark.parametrize("text", ["step,train_loss\n1,abc\n", "train_loss\n1\n", "step\n1,2\n"])
def test_a_damaged_table_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "loss.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"loss\.csv is no table of losses"):
        list(loss_points(path))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(DataError, match=r"metrics\.json is missing: run dvc repro"):
        read_object(path)
    with pytest.raises(DataError, match=r"loss\.csv is missing: run dvc repro"):
        list(loss_points(tmp_path / "loss.csv"))
    path.write_text('{"entropy": 1}')
    with pytest.raises(DataError, match="has no gen_ppl, scorer"):
        read_object(path, "gen_ppl", "entropy", "scorer")
    path.write_text("[1]")
    with pytest.raises(DataError, match="has no object"):
        read_object(path)
    for damaged in ('{"entr', "[" * 100_000, '"\\ud800'):
        path.write_text(damaged)
        with pytest.raises(DataError, match="is not valid JSON"):
            read_object(path)


@pytest.mark.parametrize(
    ("repo", "name"),
    [
        ("bundled", "bundled"),
        ("/data/baby_names/", "baby_names"),
        ("https://hub.oxen.ai/datasets/baby_names", "baby_names"),
    ],
)
def test_a_dataset_is_its_repository_at_a_commit(repo: str, name: str) -> None:
    files = [{"path": "train.parquet", "size": 1, "sha256": "x", "rows": 10}]
    found = dataset_input({"repo": repo, "revision": "r", "commit": "a" * 64, "files": files})
    assert (found.dataset.name, found.dataset.digest) == (name, "a" * 36)
    assert {tag.key: tag.value for tag in found.tags}["data_commit"] == "a" * 64
    assert json.loads(found.dataset.profile) == {"num_rows": {"train.parquet": 10}}


def test_values_as_text() -> None:
    values = {"sweep": [1, 4], "lr": 0.002, "kind": "char"}
    assert as_text(values) == {"sweep": "[1, 4]", "lr": "0.002", "kind": "char"}
