"""The id changes with what decides results, and with nothing else."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.identity import (
    GitState,
    dvc_experiment,
    experiment_id,
    git_state,
    leaves,
    operational_params,
    result_params,
    sample_paths,
)
from pipeline.config.params import Params
from pipeline.errors import DataError

PARAMS = Path(__file__).parents[2] / "params.yaml"
OPERATIONAL = {
    "score.mauve_seeds",
    "data.max_overlap",
    "device",
    *(f"resources.{key}" for key in ("processes", "nodes", "launcher", "strategy")),
    "resources.timeout_seconds",
    *(f"resources.{key}" for key in ("store", "pack", "ray_address")),
    "oxen.connect_seconds",
    "oxen.stall_seconds",
    "oxen.retries",
    "train.checkpoint_every",
    "baseline.checkpoint_every",
    *(f"zero_shot.{key}" for key in ("names", "max_blocks", "workers", "against")),
    *(f"zero_shot.{key}" for key in ("against_revision", "num_replicates", "num_draws")),
    *(f"zero_shot.{key}" for key in ("batch_size", "precision", "seed")),
    "report.num_samples",
    "tracking.uri",
    "tracking.experiment",
    "tracking.log_model",
    "publish.repo",
    "publish.checkpoint",
    "publish.during_training",
    "publish.strict",
    "publish.huggingface",
    "publish.license",
}


def params(*changes: tuple[str, Any]) -> Params:
    values = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    for key, value in changes:
        *path, last = key.split(".")
        section = values
        for name in path:
            section = section[name]
        assert last in section
        section[last] = value
    return Params.model_validate(values)


@pytest.fixture
def samples(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "1.jsonl", tmp_path / "16.jsonl"]
    for path in paths:
        path.write_text(f"samples of {path.name}")
    return paths


def test_every_leaf_that_is_in_use_is_of_one_kind() -> None:
    results, others = result_params(params()), operational_params(params())
    unused = ("embedding.", "diffusion.uniform.", "diffusion.geometric.")
    in_use = {
        key for key, _ in leaves(yaml.safe_load(PARAMS.read_text())) if not key.startswith(unused)
    }
    assert results.keys() | others.keys() == in_use
    assert not results.keys() & others.keys()
    assert others.keys() == OPERATIONAL
    assert results["sweep"] == [1, 4, 16, 64]
    assert results["train.lr"] == yaml.safe_load(PARAMS.read_text())["train"]["lr"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device", "cpu"),
        ("train.checkpoint_every", 7),
        ("baseline.checkpoint_every", 7),
        ("report.num_samples", 3),
        ("tracking.uri", "http://host"),
        ("tracking.experiment", "other"),
        ("publish.repo", "elsewhere"),
        ("diffusion.geometric.sigma_max", 10.0),
        ("embedding.bound.dim", 16),
    ],
)
def test_operational_parameters_and_unused_ones_keep_the_id(
    samples: list[Path], key: str, value: Any
) -> None:
    assert experiment_id(params((key, value)), "c", samples) == experiment_id(
        params(), "c", samples
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("diffusion.graph", "uniform"),
        ("diffusion.absorb.parameterization", "raw"),
        ("embedding.simple.dim", 16),
    ],
)
def test_keys_of_the_other_method_keep_the_id(samples: list[Path], key: str, value: Any) -> None:
    method = ("method", "embedding")
    assert experiment_id(params(method, (key, value)), "c", samples) == experiment_id(
        params(method), "c", samples
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 64),
        ("sweep", [1, 4, 16, 32]),
        ("data.revision", "other"),
        ("train.lr", 0.001),
        ("diffusion.loglinear.eps", 0.01),
        ("method", "embedding"),
        ("score.seed", 1),
    ],
)
def test_result_parameters_change_the_id(samples: list[Path], key: str, value: Any) -> None:
    assert experiment_id(params((key, value)), "c", samples) != experiment_id(
        params(), "c", samples
    )


def test_the_checkpoint_and_the_samples_change_the_id(samples: list[Path]) -> None:
    first = experiment_id(params(), "c", samples)
    assert len(first) == 64
    assert experiment_id(params(), "d", samples) != first
    assert experiment_id(params(), "c", samples[:1]) != first
    samples[0].write_text("other samples")
    assert experiment_id(params(), "c", samples) != first


def test_samples_of_other_step_counts_are_other_samples(samples: list[Path]) -> None:
    first = experiment_id(params(), "c", samples)
    one, other = (path.read_text() for path in samples)
    samples[0].write_text(other)
    samples[1].write_text(one)
    assert experiment_id(params(), "c", samples) != first


def test_order_repetition_and_folder_make_no_difference(
    samples: list[Path], tmp_path: Path
) -> None:
    first = experiment_id(params(), "c", samples)
    assert experiment_id(params(), "c", [*reversed(samples), samples[0]]) == first
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))
    assert experiment_id(params(), "c", [moved / path.name for path in samples]) == first


def test_sample_files(tmp_path: Path) -> None:
    swept, own = tmp_path / "sweep" / "samples", tmp_path / "samples" / "16.jsonl"
    expected = [swept / "1.jsonl", swept / "4.jsonl", own, swept / "64.jsonl"]
    assert sample_paths(tmp_path, params(("steps", 16))) == expected
    assert sample_paths(tmp_path, params(("sweep", []), ("steps", 16))) == [own]
    more = params(("sweep", []), ("steps", 16), ("temperatures", [1.5, 0.8, 1]))
    names = [path.stem for path in sample_paths(tmp_path, more)]
    assert names == ["16", "temperature-0.8", "temperature-1", "temperature-1.5"]
    with pytest.raises(DataError, match=r"1\.jsonl is missing: run dvc repro"):
        experiment_id(params(), "c", expected)


def git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    for name in ("params.yaml", "dvc.lock", "code.py"):
        (tmp_path / name).write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_git_state(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    clean = GitState(commit, False, "main")
    assert git_state() == clean
    (repository / "params.yaml").write_text("2\n")
    (repository / "dvc.lock").write_text("2\n")
    (repository / "untracked.py").write_text("2\n")
    assert git_state() == clean
    (repository / "code.py").write_text("2\n")
    assert git_state() == GitState(commit, True, "main")
    git(repository, "checkout", "-q", "--detach")
    assert git_state() == GitState(commit, True, None)


def test_git_state_before_the_first_commit_and_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q", "-b", "main")
    assert git_state() == GitState(None, False, "main")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() == GitState(None, False, None)


def test_dvc_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.delenv("DVC_EXP_BASELINE_REV", raising=False)
    assert dvc_experiment() == (None, None)
    monkeypatch.setenv("DVC_EXP_NAME", "puffy-cat")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123")
    assert dvc_experiment() == ("puffy-cat", "0123")
