"""The track stage as DVC runs it."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.references.trained import TEXT8
from pipeline.tracking.logged_model import MOST_BYTES
from pipeline.tracking.store import create_database, local_uri, locked
from stages import track

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
ROOT = Path(__file__).parents[2]
COMMIT = "ab" * 32
SCORES = {"gen_ppl": 12.0, "gen_ppl_stderr": 0.5, "entropy": 2.5, "nfe": 5.0, "seconds": 0.25}
RESULTS = {
    "gen_ppl": 12.0,
    "entropy": 2.5,
    "scorer": "baseline@0123456789ab",
    "likelihood": {
        "bound_nats_per_char": 2.25,
        "bound_stderr": 0.01,
        "bound_nats_per_block": 16.0,
        "baseline_nats_per_char": 2.1,
    },
    "by_steps": {str(n): SCORES | {"gen_ppl": 100.0 / n} for n in (1, 4, 16, 64, 128)},
    "by_temperature": {},
    "real_text": SCORES | {"gen_ppl": 8.0, "seconds": 0.0, "num_steps": None},
    "references": [
        {
            "key": "bits_per_char",
            "protocol": TEXT8,
            "name": "bits a character",
            "data": "ada/text8",
            "cells": ["≤ 1.421 ± 0.001"],
            "differs": [],
        }
    ],
}
TRAIN = {
    "num_params": 7,
    "num_tokens": 100,
    "num_steps": 5,
    "seconds": 12.5,
    "tokens_per_second": 8.0,
    "device": "cpu",
    "torch": "2.13.0",
    "lock_sha256": "cd" * 32,
    "sha256": "x",
}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's migrations take a second: once is enough."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        with locked():
            create_database(local_uri())
    return root / ".store" / "mlflow" / "mlflow.db"


@pytest.fixture
def project(fresh_project: Path, empty_database: Path) -> Path:
    """A project with a store that has no run yet."""
    folder = fresh_project / ".store" / "mlflow"
    folder.mkdir(parents=True)
    shutil.copyfile(empty_database, folder / "mlflow.db")
    return fresh_project


@pytest.fixture
def fresh_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose other stages have run, or came from the cache; it has no store yet."""
    artifacts, reports = tmp_path / "artifacts", tmp_path / "reports"
    for name in ("samples", "sweep/samples", "checkpoint", "runs"):
        (artifacts / name).mkdir(parents=True)
    reports.mkdir()
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (artifacts / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    (artifacts / "checkpoint" / "config.json").write_text("{}")
    (artifacts / "snapshots.jsonl").write_text('{"step": 200}\n')
    files = [{"path": "train.parquet", "size": 1, "sha256": "x", "rows": 10}]
    provenance = {"repo": "bundled", "revision": COMMIT, "commit": COMMIT, "files": files}
    (artifacts / "provenance.json").write_text(json.dumps(provenance))
    (artifacts / "runs" / "train.json").write_text(json.dumps(TRAIN))
    for n, folder in dict.fromkeys((1, 4, 16, 64), "sweep/samples").items() | {(128, "samples")}:
        (artifacts / folder / f"{n}.jsonl").write_text(f'{{"text": "Ann {n}"}}\n')
    (reports / "results.json").write_text(json.dumps(RESULTS))
    (reports / "metrics.json").write_text('{"gen_ppl": 12.0}')
    rows = "".join(f"{step},{30 - step / 100},,0.001\n" for step in range(10, 1010, 10))
    (reports / "loss.csv").write_text(f"step,train_loss,eval_loss,lr\n{rows}1010,20,21.5,0\n")
    (reports / "by_steps.csv").write_text("num_steps,gen_ppl\n")
    (reports / "index.html").write_text("<html></html>")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for key in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(key, raising=False)
    return tmp_path


def run_stage() -> None:
    track.main(Path("artifacts"), Path("reports"))


def set_params(change: Callable[[dict[str, Any]], None]) -> None:
    path = Path("params.yaml")
    values = yaml.safe_load(path.read_text())
    change(values)
    path.write_text(yaml.safe_dump(values))


def start(code: str | None = None) -> "subprocess.Popen[str]":
    """The stage in a process of its own; `code` runs before it."""
    program = f"{code or ''}\nimport runpy, sys\nsys.argv[1:] = ['artifacts', 'reports']\n"
    program += "runpy.run_module('stages.track', run_name='__main__')"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def all_runs() -> list[Run]:
    client = MlflowClient(tracking_uri=local_uri())
    experiment = client.get_experiment_by_name("baby-names")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def only_run() -> Run:
    (run,) = all_runs()
    return run


def curve(key: str) -> list[tuple[int, float]]:
    client = MlflowClient(tracking_uri=local_uri())
    points = client.get_metric_history(only_run().info.run_id, key)
    return sorted((point.step, point.value) for point in points)


def files_of(run: Run, folder: str | None = None) -> set[str]:
    client = MlflowClient(tracking_uri=local_uri())
    found = client.list_artifacts(run.info.run_id, folder)
    inner = (files_of(run, item.path) for item in found if item.is_dir)
    return {item.path for item in found if not item.is_dir}.union(*inner)


def assert_complete(run: Run) -> None:
    assert run.info.status == "FINISHED"
    assert curve("by_steps/gen_ppl") == [(n, 100.0 / n) for n in (1, 4, 16, 64, 128)]
    assert len(curve("train_loss")) == 101
    assert len(run.inputs.dataset_inputs) == 1
    assert len(files_of(run)) == 5 + 5 + 1 + 3


def test_a_run_complete_when_all_else_was_cached(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "puffy-cat")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123456789")
    run_stage()
    run = only_run()
    assert_complete(run)
    assert run.info.run_name == "puffy-cat"
    params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
    assert params["steps"] == "128"
    assert params["sweep"] == "[1, 4, 16, 64]"
    assert params["diffusion.absorb.parameterization"] == "conditional"
    assert params.keys().isdisjoint({"device", "train.checkpoint_every", "tracking.uri"})
    assert tags["params.device"] == "auto"
    assert tags["params.publish.repo"] == tags["publish_repo"] == ".store/oxen/samples"
    assert tags["publication_id"] == tags["fingerprint"]
    assert tags["data_commit"] == tags["data_revision"] == COMMIT
    assert tags["scorer"] == "baseline@0123456789ab"
    assert tags["device"] == "cpu"
    beside = tags["references/bits_per_char"]
    assert beside.startswith("≤ 1.421 ± 0.001; published: AR transformer, 1.23; ")
    assert "SEDD absorb, ≤ 1.39; " in beside
    assert tags["lock_sha256"] == "cd" * 32
    assert tags["dvc_exp_baseline"] == "0123456789"
    assert len(tags["checkpoint_sha256"]) == 64
    wanted = RESULTS["likelihood"] | {"gen_ppl": 12.0, "entropy": 2.5, "real_text/gen_ppl": 8.0}
    assert metrics.items() >= wanted.items()
    assert curve("eval_loss") == [(1010, 21.5)]
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("bundled", COMMIT[:36])
    assert files_of(run) == {
        *(f"samples/{n}.jsonl" for n in (1, 4, 16, 64, 128)),
        *(f"report/{name}" for name in ("index.html", "metrics.json", "results.json")),
        *(f"report/{name}" for name in ("by_steps.csv", "loss.csv")),
        "snapshots.jsonl",
        *("config/params.yaml", "config/provenance.json", "config/checkpoint/config.json"),
    }


def test_what_decides_no_result_makes_no_other_run(project: Path) -> None:
    run_stage()
    first = only_run()

    def operational(values: dict[str, Any]) -> None:
        values["device"] = "cpu"
        values["train"]["checkpoint_every"] = 7
        values["publish"]["repo"] = "elsewhere"

    set_params(operational)
    run_stage()
    assert only_run().info.run_id == first.info.run_id
    assert only_run().data.tags["params.train.checkpoint_every"] == "7"
    assert only_run().data.tags["publish_repo"] == "elsewhere"
    set_params(lambda values: values["sample"].update(seed=1))
    run_stage()
    assert len(all_runs()) == 2


def test_what_became_of_the_checkpoint_is_said(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("artifacts/checkpoint/model.safetensors").write_bytes(bytes(1_300_000))
    assert MOST_BYTES == 200_000_000
    monkeypatch.setattr("pipeline.tracking.logged_model.MOST_BYTES", 1_300_000)
    said = []
    for setting in ("never", "auto", "always", "auto"):
        set_params(lambda values, to=setting: values["tracking"].update(log_model=to))
        run_stage()
        said.append(capsys.readouterr().err.splitlines()[-1])
    (output,) = only_run().outputs.model_outputs
    assert said == [
        "no model logged: tracking.log_model is never; the checkpoint has 1.3 MB",
        "no model logged: tracking.log_model is auto, up to 200 MB; the checkpoint has 1.3 MB",
        f"models:/{output.model_id} logged, a checkpoint of 1.3 MB",
        "no model logged: tracking.log_model is auto, up to 200 MB; the checkpoint has 1.3 MB",
    ]


def zero_shot(**changes: Any) -> dict[str, Any]:
    """WikiText-103 under `sedd` as the stage writes it, but for what is not tracked."""
    figures = {"perplexity_per_token": 40.7123, "perplexity_per_token_stderr": 0.4511}
    figures |= {"nats_per_token": 3.7066, "nats_per_token_stderr": 0.0111, "bits_per_byte": 1.183}
    counts = {"num_blocks": 264, "num_blocks_of": 264, "num_tokens": 270336}
    table = {"protocol": "sedd", "of": "wikitext103", "comparable_with": "2310.16834"}
    return figures | counts | table | {"differs": []} | changes


def test_published_figures_stand_beside_ours_only_where_they_may(project: Path) -> None:
    folder = project / "artifacts" / "zero_shot"
    folder.mkdir()
    few = {"comparable_with": None, "differs": ["8 of 264 blocks", "split null"]}
    exact = zero_shot(protocol="exact", last_word={"accuracy": 0.25}, **few)
    write = {"protocols": {"sedd": zero_shot(), "exact": exact}}
    (folder / "wiki.json").write_text(json.dumps(write))
    declared = {"repo": "r", "revision": "r", "file": "f", "column": "c", "of": None}
    declared |= {"split": None, "detokenizer": "none", "protocols": ["exact"]}
    set_params(lambda values: values["zero_shot"].update(names=["wiki"], sets={"wiki": declared}))
    run_stage()
    tags, metrics = only_run().data.tags, only_run().data.metrics
    beside = tags["zero_shot/wiki/sedd"]
    assert beside.startswith("≤ 40.71 ± 0.45; published: GPT-2 small 41.60, SEDD absorb small ≤ 40")
    assert tags["zero_shot/wiki/exact"] == (
        "≤ 40.71 ± 0.45; in no table: 8 of 264 blocks; split null"
    )
    assert metrics["zero_shot/wiki/sedd/perplexity_per_token"] == 40.7123
    assert metrics["zero_shot/wiki/exact/last_word_accuracy"] == 0.25
    assert "zero_shot/wiki/sedd/last_word_accuracy" not in metrics

    client = MlflowClient(tracking_uri=local_uri())
    client.set_tag(only_run().info.run_id, "zero shot of mine", "stays")
    set_params(lambda values: values["zero_shot"].update(names=[]))
    run_stage()
    left = [key for key in only_run().data.tags if "zero" in key]
    assert "zero shot of mine" in left
    assert not [key for key in left if key.startswith("zero_shot/")]
    assert math.isnan(only_run().data.metrics["zero_shot/wiki/exact/last_word_accuracy"])


def test_new_seconds_are_shown_in_the_same_run(project: Path) -> None:
    run_stage()
    results = json.loads(json.dumps(RESULTS))
    results["by_steps"]["128"]["seconds"] = 0.125
    Path("reports/results.json").write_text(json.dumps(results))
    run_stage()
    assert only_run().data.metrics["by_steps/seconds"] == 0.125
    assert_complete(only_run())


def test_no_password_is_kept_or_shown(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def secret(values: dict[str, Any]) -> None:
        values["data"]["repo"] = "https://me:s3cret@host/names"
        values["publish"]["repo"] = "https://me:s3cret@host/samples"

    set_params(secret)
    provenance = json.loads(Path("artifacts/provenance.json").read_text())
    provenance["repo"] = "https://me:s3cret@host/names"
    Path("artifacts/provenance.json").write_text(json.dumps(provenance))
    run_stage()
    assert only_run().data.tags["publish_repo"] == "https://***@host/samples"
    assert "s3cret" not in "".join(capfd.readouterr())
    kept = [path for path in (project / ".store").rglob("*") if path.is_file()]
    assert len(kept) > 10
    assert not [path for path in kept if b"s3cret" in path.read_bytes()]


@pytest.mark.parametrize("name", ["artifacts/sweep/samples/16.jsonl", "reports/results.json"])
def test_a_missing_file_is_named_and_nothing_written(
    fresh_project: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Path(name).unlink()
    with pytest.raises(SystemExit, match="1"):
        run_stage()
    assert capsys.readouterr().err == f"error: {name} is missing: run dvc repro\n"
    assert not (fresh_project / ".store").exists()


def test_a_dead_server_is_one_message(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    set_params(lambda values: values["tracking"].update(uri="http://me:s3cret@127.0.0.1:9"))
    started = time.monotonic()
    with pytest.raises(SystemExit, match="1"):
        run_stage()
    assert time.monotonic() - started < 30
    error = capfd.readouterr().err
    assert error.startswith("error: MLflow at http://***@127.0.0.1:9 cannot be used")
    assert error.count("\n") == 1
    assert "s3cret" not in error


@pytest.mark.slow
def test_killed_in_the_middle_the_next_pass_completes_the_run(fresh_project: Path) -> None:
    kill = (
        "import os, mlflow\n"
        "def stop(*args, **kwargs): os.kill(os.getpid(), 9)\n"
        "mlflow.MlflowClient.log_inputs = stop"
    )
    killed = start(kill)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    half = only_run()
    assert half.info.status == "RUNNING"
    run_stage()
    assert only_run().info.run_id == half.info.run_id
    assert_complete(only_run())


@pytest.mark.slow
def test_two_at_once_make_one_run(fresh_project: Path) -> None:
    both = [start(), start()]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    # One may have said before that it waits for the other.
    said = [error.splitlines()[-2].split()[0] for error in errors]
    assert sorted(said) == ["created", "updated"]
    assert_complete(only_run())


@pytest.mark.slow
def test_killed_at_any_moment(fresh_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = random.Random(0)
    started = time.monotonic()
    start().communicate()
    whole_pass = time.monotonic() - started
    for index in range(8):
        # A store of its own: this process keeps the databases it has read open.
        monkeypatch.setenv("DVC_ROOT", str(fresh_project / f"root{index}"))
        process = start()
        # The first part of a pass only imports.
        time.sleep(moments.uniform(0.4, 1.0) * whole_pass)
        process.kill()
        process.communicate()
        again = start()
        error = again.communicate()[1]
        assert again.returncode == 0, error
        assert_complete(only_run())
