"""A store of its own for each test, and records to track in it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_project import shipped_params
from toy import random_model, write_model

from pipeline.config.params import params_of
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.tracking.logged_model import Checkpoint, checkpoint_at
from pipeline.tracking.record import Point, Record
from pipeline.tracking.store import create_database, local_uri, locked

BASELINE_SCORER = "baseline@0123456789ab"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes two seconds for its migrations: once is enough."""
    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with locked():
            create_database(local_uri())
    return root / ".store" / "mlflow" / "mlflow.db"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """A project's folder with a database that has no run; its name is hard on URLs."""
    root = tmp_path / "my project #1 ü"
    database = root / ".store" / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    shutil.copyfile(empty_database, database)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return root


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Record]:
    """Makes a small record; keywords replace its parts."""
    sample = tmp_path / "4.jsonl"
    sample.write_text('{"text": "Ann"}\n')

    def make(**changes: Any) -> Record:
        parts = {
            "fingerprint": "f" * 64,
            "params": {
                "steps": "16",
                "train.lr": "0.002",
                "diffusion.graph": "absorb",
                "diffusion.absorb.parameterization": "conditional",
            },
            "tags": {
                "fingerprint": "f" * 64,
                "git_commit": "0123456789abcdef",
                "scorer": BASELINE_SCORER,
                "data_commit": "c0ffee1234567890",
            },
            "points": [
                Point("gen_ppl", 0, 12.5),
                Point("entropy", 0, 2.5),
                Point("bound_nats_per_char", 0, 2.25),
                Point("bound_stderr", 0, 0.01),
                Point("by_steps/gen_ppl", 4, 20.0),
                Point("by_steps/gen_ppl", 16, 12.5),
                Point("by_steps/seconds", 4, 0.5),
                Point("by_steps/seconds", 16, 2.0),
                Point("train_loss", 10, 30.0),
                Point("train_loss", 20, 25.0),
            ],
            "provenance": {
                **{"repo": "/data/names", "revision": "c" * 32, "commit": "c" * 32},
                "files": [{"path": "t", "rows": 3}],
            },
            "files": {"samples/4.jsonl": sample},
            "texts": {"config/params.yaml": "steps: 16\n"},
        }
        return Record(**(parts | changes))

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model of random weights."""
    tokenizer, length = train_char_tokenizer(["abcdefghi"]), 8
    model = random_model("absorb", "conditional", vocab_size=tokenizer.size, length=length)
    folder = write_model(tmp_path_factory.mktemp("trained"), model, tokenizer, [1] * length)
    return checkpoint_at(folder, params_of(shipped_params(), "params.yaml"))
