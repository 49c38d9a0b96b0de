"""The files that an experiment publishes."""

import json

from pyarrow import dataset, parquet

from pipeline.publishing.publication import (
    checkpoint_files,
    without_wall_clock,
    write_publication,
    write_snapshot,
)

PROVENANCE = {
    "id": "abc",
    "data": {"repo": "bundled", "revision": "r1", "commit": "d1"},
    "params": {"steps": 8, "sweep": [1, 2]},
    "git": {"commit": None, "dirty": False},
    "checkpoint_sha256": "c1",
    "training_fingerprint": "train-f1",
    "metrics": {
        "gen_ppl": None,
        "entropy": 2.0,
        "scorer": "baseline@123",
        "likelihood": {
            "bound_nats_per_char": 2.2,
            "bound_stderr": 0.01,
            "baseline_nats_per_char": 2.1,
        },
    },
}
SAMPLE = {
    "index": 0,
    "num_steps": 8,
    "seed": 3,
    "text": "Zoë",
    "ids": [5, 4, 1],
    "nfe": 3,
    "predictor": "cached",
    "temperature": 1.0,
    "top_p": 0.9,
    "nats": 6.5,
    "scored_tokens": 4,
    "well_formed": True,
    "in_train": False,
    "in_held_out": None,
}
SNAPSHOT = {"step": 20, "loss": None, "eval_loss": 6.0, "texts": ["Zoë"], "ids": [[5, 4, 1]]}


def test_seconds_and_speeds_are_left_out_at_every_depth():
    metrics = {
        "gen_ppl": 1.0,
        "seconds": 2.0,
        "by_steps": {"1": {"nfe": 1, "seconds": 0.1, "train_seconds": 3}},
        "list": [{"tokens_per_second": 9}],
    }
    left = {"gen_ppl": 1.0, "by_steps": {"1": {"nfe": 1}}, "list": [{}]}
    assert without_wall_clock(metrics) == left


def test_tables_hold_every_field_under_the_run(tmp_path):
    files = write_publication(tmp_path, PROVENANCE, [SAMPLE, {**SAMPLE, "index": 1}])
    assert sorted(files) == ["runs/abc.json", "runs/abc.parquet", "samples/abc.parquet"]
    samples = parquet.read_table(files["samples/abc.parquet"]).to_pylist()
    assert samples == [{"run": "abc", **SAMPLE}, {"run": "abc", **SAMPLE, "index": 1}]
    (run,) = parquet.read_table(files["runs/abc.parquet"]).to_pylist()
    assert (run["run"], run["data_commit"], run["git_commit"]) == ("abc", "d1", None)
    assert (run["steps"], run["gen_ppl"], run["bound_nats_per_char"]) == (8, None, 2.2)
    assert json.loads(run["params"]) == PROVENANCE["params"]
    assert json.loads(files["runs/abc.json"].read_text()) == PROVENANCE


def test_the_same_publication_has_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = write_publication(tmp_path / "a", PROVENANCE, [SAMPLE])
    second = write_publication(tmp_path / "b", PROVENANCE, [SAMPLE])
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes()


def test_files_of_a_folder_are_one_table(tmp_path):
    """Whatever is null in one of them: the schema does not depend on the values."""
    nothing = {**SAMPLE, "nats": 0.0, "in_train": None, "in_held_out": None}
    for run, sample in {"abc": SAMPLE, "def": nothing}.items():
        provenance = {**PROVENANCE, "id": run}
        for name, path in write_publication(tmp_path, provenance, [sample]).items():
            target = tmp_path / name
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
    for name in ("samples", "runs"):
        files = sorted((tmp_path / name).glob("*.parquet"))
        table = dataset.dataset(files).to_table()
        assert table["run"].to_pylist() == ["abc", "def"]
        assert all(parquet.read_schema(file).equals(table.schema) for file in files)
    runs = {row["run"]: row for row in dataset.dataset(files).to_table().to_pylist()}
    traced = runs["abc"]
    assert (traced["data_commit"], traced["data_revision"]) == ("d1", "r1")
    assert (traced["checkpoint_sha256"], traced["training_fingerprint"]) == ("c1", "train-f1")
    assert traced["publication_id"] == traced["mlflow_fingerprint"] == "abc"


def test_a_snapshot_has_a_row_a_sample_and_the_same_bytes_each_time(tmp_path):
    rows = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        [(path, file)] = write_snapshot(tmp_path / name, "train-f1", SNAPSHOT).items()
        assert path == "snapshots/train-f1/20.parquet"
        rows.append(file.read_bytes())
    assert rows[0] == rows[1]
    assert parquet.read_table(file).to_pylist() == [
        {
            "training_fingerprint": "train-f1",
            "step": 20,
            "index": 0,
            "text": "Zoë",
            "ids": [5, 4, 1],
            "loss": None,
            "bound_integral_nats_per_position": 2.0,
        }
    ]


def test_a_checkpoint_is_published_as_it_is(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    for name in ("config.json", "tokenizer/vocab.json"):
        (tmp_path / name).write_text(name)
    files = checkpoint_files(tmp_path, "0123456789abcdef0123")
    assert {path: file.read_text() for path, file in files.items()} == {
        "checkpoints/0123456789abcdef/config.json": "config.json",
        "checkpoints/0123456789abcdef/tokenizer/vocab.json": "tokenizer/vocab.json",
    }
