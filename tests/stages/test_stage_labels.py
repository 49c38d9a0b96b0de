"""Labels from a table to the report, by params.yaml alone."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from tiny_project import TINY, write_params

from pipeline.config.data import Label
from pipeline.data.labels import name_of, watching
from pipeline.data.packed import Packed
from pipeline.errors import DataError
from pipeline.files import read_jsonl, read_object, write_jsonl
from stages import baseline, evaluate, fetch, pack, sample, score, tokenizer, train

DATA, PROVENANCE = Path("artifacts/data"), Path("artifacts/provenance.json")
TOKENIZER, PACKED, CHECKPOINT, BASELINE = (
    Path("artifacts", name) for name in ("tokenizer", "packed", "checkpoint", "baseline")
)
YEARS = {"column": "year", "edges": [1990, 2000]}
LABELS = {"data.labels": ["sex", YEARS]}
SHORT = TINY | {
    "data.repo": "names",
    "data.files.train": "train.jsonl",
    "data.files.test": "test.jsonl",
    "data.column": "name",
    "train.num_steps": 12,
    "train.warmup_steps": 2,
    "train.eval_every": 6,
    "baseline.num_tokens": 512,
}
ROWS = [
    {"name": "Ada", "sex": "F", "year": 1999},
    {"name": "Ben", "sex": "M", "year": 2000},
    {"name": "Cleo", "sex": None, "year": 1989.5},
    {"name": "Dora", "sex": "F", "year": 1990},
]


@pytest.fixture
def fetched(empty_project):
    """The rows as a table that was fetched."""
    DATA.mkdir(parents=True)
    write_jsonl(DATA / "train.jsonl", ROWS * 30)
    write_jsonl(DATA / "test.jsonl", [*ROWS, {"name": "Ed", "sex": "X", "year": 1995}] * 8)
    write_params(empty_project, SHORT | LABELS)
    return empty_project


def refused(capsys, call, *arguments):
    """What a stage says that refuses its work."""
    with pytest.raises(SystemExit):
        call(*arguments)
    return capsys.readouterr().err


def packed():
    tokenizer.main(DATA, TOKENIZER)
    pack.main(DATA, TOKENIZER, PACKED)
    return Packed.open(PACKED)


def test_labels_stand_before_the_tokens_and_change_none(fetched):
    labelled = packed()
    assert labelled.meta.labels == {
        "sex": ["F", "M"],
        "year": ["below 1990", "1990s", "from 2000"],
    }
    assert labelled.train_rows[:4, :2].tolist() == [[1, 2], [2, 3], [0, 1], [1, 2]]
    # A value that the training split does not have is not said.
    assert labelled.test_labels[4].tolist() == [0, 2]
    train_tokens, test_tokens = np.array(labelled.train), np.array(labelled.test)
    write_params(fetched, SHORT)
    plain = packed()
    assert "labels" not in json.loads((PACKED / "meta.json").read_text())
    assert np.array_equal(plain.train_rows, train_tokens)
    assert np.array_equal(plain.test_rows, test_tokens)


def test_labels_go_through_every_stage(fetched):
    packed()
    train.main(PACKED, TOKENIZER, CHECKPOINT, *map(Path, ("s.jsonl", "run.json", "loss.csv")))
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert config["labels"]["sex"] == ["F", "M"]
    assert config["label_dropout"] == 0.15
    baseline.main(PACKED, TOKENIZER, BASELINE, *map(Path, ("b.json", "b.csv")))
    evaluate.main(CHECKPOINT, BASELINE, PACKED, Path("likelihood.json"))
    found = read_object(Path("likelihood.json"))
    given = found["given_labels"]
    gain = found["bound_nats_per_char"] - given["bound_nats_per_char"]
    assert given["gain_nats_per_char"] == pytest.approx(gain)
    assert 0 < given["gain_stderr"] < given["bound_stderr"]

    write_params(fetched, SHORT | LABELS | {"sample.guidance": 2.0})
    sample.main(3, CHECKPOINT, TOKENIZER, Path("samples"))
    rows = read_jsonl(Path("samples/3.jsonl"))
    asked = [tuple(row["labels"].values()) for row in rows]
    assert len(set(asked[:6])) == 6
    assert asked[:6] == asked[6:12]
    assert {row["guidance"] for row in rows} == {2.0}
    assert all(2 <= row["nfe"] <= 8 and row["nfe"] % 2 == 0 for row in rows)
    assert len(read_object(Path("samples/3.trace.json"))["samples"]) == 2
    score.main(Path("samples/3.jsonl"), DATA, TOKENIZER, PACKED, BASELINE, Path("scores.json"))
    by_label = read_object(Path("scores.json"))["by_label"]
    assert by_label["sex"]["F"]["num"] == sum(sex == "F" for sex, _ in asked)
    assert by_label["sex"]["F"]["real_num"] == 16
    assert by_label["sex"]["F"]["real_share"] == 1.0


def test_samples_are_asked_for_what_params_say_or_refused(fetched, capsys):
    packed()
    train.main(PACKED, TOKENIZER, CHECKPOINT, *map(Path, ("s.jsonl", "run.json", "loss.csv")))
    write_params(fetched, SHORT | LABELS | {"sample.labels": ["year=1990s"]})
    sample.main(3, CHECKPOINT, TOKENIZER, Path("samples"))
    assert all(row["labels"] == {"year": "1990s"} for row in read_jsonl(Path("samples/3.jsonl")))
    write_params(fetched, SHORT | LABELS | {"sample.labels": ["sex=X"]})
    said = refused(capsys, sample.main, 3, CHECKPOINT, TOKENIZER, Path("samples"))
    assert "error: sample: labels: sex must be F or M (got X)" in said
    # Where nothing is trained yet, nothing is.
    said = refused(capsys, pack.main, DATA, TOKENIZER, PACKED)
    assert "error: sample.labels: sex must be F or M (got X)" in said


def test_documents_without_labels_are_not_counted_in_memory():
    seen = []
    assert list(watching([("Ada", ()), ("Ben", ())], {}, seen)) == ["Ada", "Ben"]
    assert seen == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["age"], "no key 'age' (data.labels); its keys: 'name', 'sex', 'year'"),
        (["name"], "data: labels must be of columns that differ, and from that of the text"),
        ([{"column": "sex", "edges": [1]}], "'sex' must hold numbers to cut at edges (got 'F')"),
    ],
)
def test_columns_that_are_no_labels_are_named(fetched, capsys, labels, message):
    tokenizer.main(DATA, TOKENIZER)
    write_params(fetched, SHORT | {"data.labels": labels})
    assert message in refused(capsys, pack.main, DATA, TOKENIZER, PACKED)
    assert not PACKED.exists()


def test_fetch_looks_at_labels_of_files_that_it_has(empty_project, capsys):
    write_params(empty_project, TINY)
    fetch.main(DATA, PROVENANCE)
    write_params(empty_project, TINY | {"data.labels": ["Sex", "Years"]})
    assert "no column 'Years' (data.labels)" in refused(capsys, fetch.main, DATA, PROVENANCE)
    PROVENANCE.unlink()
    said = refused(capsys, fetch.main, DATA, PROVENANCE)
    assert said.startswith("error: train.parquet has no column 'Years' (data.labels)")


@pytest.mark.parametrize("value", ["many", [1], 10**400, float("nan"), date(1999, 1, 1)])
def test_what_is_no_number_is_cut_at_no_edge(value):
    with pytest.raises(DataError, match=r"'year' must hold numbers to cut at edges \(got "):
        name_of(Label(column="year", edges=[1990]), value)
