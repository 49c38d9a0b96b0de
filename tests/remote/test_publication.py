"""The files that an experiment publishes."""

import json

from pyarrow import parquet

from pipeline.remote.publication import without_wall_clock, write_publication

PROVENANCE = {
    "id": "abc",
    "data": {"repo": "bundled", "commit": "d1"},
    "params": {"steps": 8, "sweep": [1, 2]},
    "git": {"commit": None, "dirty": False},
    "checkpoint_sha256": "c1",
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
}


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
