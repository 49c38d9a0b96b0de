"""The publish stage: one commit for each experiment, whatever is killed or runs beside it."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow import parquet

from pipeline.oxen.local.snapshot import log_of
from pipeline.publishing.spool import waiting_spools
from stages.publish import main

PROJECT = Path(__file__).parents[2]
METRICS = {
    "gen_ppl": 9.5,
    "entropy": 2.5,
    "scorer": "baseline@0123456789ab",
    "likelihood": {
        "bound_nats_per_char": 2.2,
        "bound_stderr": 0.01,
        "baseline_nats_per_char": 2.1,
    },
    "by_steps": {"2": {"gen_ppl": 9.5, "seconds": 1.25}},
}


def write_experiment(folder: Path, seed: int = 0, **metrics: Any) -> None:
    """What the stages before publish leave in `folder`."""
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    values |= {"sweep": [1, 2, 3, 4], "steps": 2}
    values["publish"]["repo"] = "published"
    values["sample"]["seed"] = seed
    values["tracking"]["uri"] = "https://user:secret@example.org"
    artifacts, reports = folder / "artifacts", folder / "reports"
    sweep = artifacts / "sweep"
    folders = [folder / name for folder in (artifacts, sweep) for name in ("samples", "scores")]
    for path in (*folders, artifacts / "checkpoint", reports):
        path.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (artifacts / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    (artifacts / "runs").mkdir(exist_ok=True)
    run = {"device": "cpu", "fingerprint": "train-f1", "lock_sha256": "lock-1"}
    (artifacts / "runs" / "train.json").write_text(json.dumps(run))
    data = {"repo": "bundled", "revision": "r1", "commit": "d1", "files": []}
    (artifacts / "provenance.json").write_text(json.dumps(data))
    (reports / "results.json").write_text(json.dumps({**METRICS, **metrics}))
    for n in range(1, 5):
        drawn = artifacts if n == 2 else sweep
        sample = {"num_steps": n, "seed": seed, "text": "Ada", "ids": [3, 1], "nfe": n}
        rows = [json.dumps({"index": index, **sample}) for index in range(2)]
        (drawn / "samples" / f"{n}.jsonl").write_text("\n".join(rows) + "\n")
        known = {"index": [0, 1], "nats": [n + 0.5, 2.0], "scored_tokens": [4, 4]}
        known |= {"well_formed": [True, False], "in_train": [True, True]}
        known |= {"in_held_out": [False, False]}
        (drawn / "scores" / f"{n}.json").write_text(json.dumps({"by_sample": known}))


@pytest.fixture(autouse=True)
def project(empty_project):
    write_experiment(empty_project)
    return empty_project


def publish(capfd: pytest.CaptureFixture[str]) -> str:
    """What one publication prints, which is one line."""
    main(Path("artifacts"), Path("reports"))
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.count("\n") == 1
    return said.out


def start(folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "stages.publish", "artifacts", "reports"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def commits() -> list[str]:
    return [commit.message for commit in log_of(Path("published").resolve())]


def test_it_is_published_once_and_again_when_its_metrics_change(project, capfd):
    assert publish(capfd).startswith("published 8 samples as ")
    assert publish(capfd).startswith("nothing new to publish: ")
    # Wall-clock is no result, and where things are tracked makes no other experiment.
    write_experiment(project, by_steps={"2": {"gen_ppl": 9.5, "seconds": 99.0}})
    assert publish(capfd).startswith("nothing new to publish: ")
    write_experiment(project, entropy=2.6)
    assert publish(capfd).startswith("published 8 samples as ")
    assert len(commits()) == 2
    (table,) = Path("published/samples").glob("*.parquet")
    rows = parquet.read_table(table).to_pylist()
    assert [row["num_steps"] for row in rows] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert {row["run"] for row in rows} == {table.stem}
    provenance = json.loads(Path("published/runs", f"{table.stem}.json").read_text())
    assert provenance["id"] == table.stem
    assert provenance["data"]["commit"] == "d1"
    assert provenance["params"]["steps"] == 2
    assert provenance["lock_sha256"] == "lock-1"
    assert provenance["metrics"]["entropy"] == 2.6
    assert provenance["metrics"]["by_steps"] == {"2": {"gen_ppl": 9.5}}
    everything = [path.read_bytes() for path in project.glob("published/**/*") if path.is_file()]
    assert not any(b"secret" in content for content in everything)


@pytest.mark.slow
def test_two_experiments_publish_at_once(project):
    folders = [project / "one", project / "two"]
    for seed, folder in enumerate(folders):
        write_experiment(folder, seed)
    both = [start(folder) for folder in folders]
    assert [process.wait() for process in both] == [0, 0]
    assert len(set(commits())) == len(commits()) == 2
    assert len(list(Path("published/runs").glob("*.json"))) == 2


def kill_after(
    process: "subprocess.Popen[bytes]", touched: Callable[[], bool], seconds: float
) -> None:
    """Kill -9 a publisher, and what it started, so long after it has touched something."""
    while process.poll() is None and not touched():
        time.sleep(0.001)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def killed_and_published(project: Path, seed: int, within: float) -> None:
    """Kill a publisher some time after it touched the repository, then run it again."""
    write_experiment(project, seed)
    before = commits() if Path("published").exists() else []
    files = set(project.glob("published/samples/*"))
    kill_after(
        start(project),
        lambda: (
            files != set(project.glob("published/samples/*")) or any(project.glob(".published.*"))
        ),
        random.Random(seed).uniform(0, within),
    )
    main(Path("artifacts"), Path("reports"))
    assert not waiting_spools()
    assert not list(project.glob(".store/spool/*/.*.partial"))
    (new,) = set(commits()) - set(before)
    assert sorted(commits()) == sorted([*before, new])


def killed_while_spooling(project: Path, seed: int) -> None:
    """Kill a publisher some time after it touched the spool, then run it again."""
    write_experiment(project, seed)
    before = commits() if Path("published").exists() else []
    kill_after(
        start(project),
        lambda: any(project.glob(".store/spool/*/*[0-9a-f]*-*")),
        random.Random(seed).uniform(0, 0.05),
    )
    main(Path("artifacts"), Path("reports"))
    assert not waiting_spools()
    assert not list(project.glob(".store/spool/*/.*.partial"))
    assert len(commits()) == len(before) + 1


@pytest.mark.slow
def test_a_killed_publisher_is_followed_by_exactly_one_copy(project):
    killed_and_published(project, seed=0, within=0.1)
    killed_and_published(project, seed=1, within=0.4)
    killed_while_spooling(project, seed=2)


@pytest.mark.slow
def test_many_killed_publishers(project):
    for seed in range(10):
        killed_and_published(project, seed, within=0.4)
    for seed in range(10, 20):
        killed_while_spooling(project, seed)


def test_what_cannot_be_published_to(project, capsys):
    values = yaml.safe_load(Path("params.yaml").read_text())
    for repo, message in {
        "artifacts": "must be outside artifacts, which DVC empties",
        "reports": "is no Oxen repository (it has no .oxen folder)",
        "bundled": "bundled names can only be read",
        "https://hub.oxen.ai/samples": "an address is https://HOST/NAMESPACE/NAME",
    }.items():
        values["publish"]["repo"] = repo
        Path("params.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(SystemExit):
            main(Path("artifacts"), Path("reports"))
        said = capsys.readouterr().err
        assert re.match(r"error: (params\.yaml: )?publish\.repo: ", said)
        assert message in said
        assert not Path(".store/spool").exists()
    Path("artifacts/checkpoint/model.safetensors").unlink()
    with pytest.raises(SystemExit):
        main(Path("artifacts"), Path("reports"))
    assert "model.safetensors is missing: run dvc repro" in capsys.readouterr().err
