"""`dvc push` from one clone and `dvc pull` in another: the same bytes, and nothing left to run."""

from pathlib import Path

import pytest
from tiny_clone import ALL, make_clone, ran, run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def contents(clone: Path) -> dict[str, bytes]:
    """Every file that stages write, by its path."""
    folders = (clone / "artifacts", clone / "reports")
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(clone).as_posix(): path.read_bytes() for path in files}


def test_a_second_clone_pulls_and_runs_nothing(tmp_path):
    first, second = make_clone(tmp_path / "first", {}), tmp_path / "second"
    assert ran(run(first, "dvc", "repro")) == ALL
    run(first, "dvc", "remote", "add", "-d", "artifacts", str(tmp_path / "remote"))
    run(first, "dvc", "push")
    run(first, "git", "add", "dvc.lock", ".dvc/config")
    run(first, "git", "commit", "-q", "-m", "results")

    run(tmp_path, "git", "clone", "-q", str(first), str(second))
    assert contents(second) == {}
    run(second, "dvc", "pull")
    assert contents(second) == contents(first)
    # Nor track or publish, which write no file: what they read is as the lock says.
    assert ran(run(second, "dvc", "repro")) == set()
    assert run(second, "git", "status", "--porcelain") == ""
    assert not (second / ".store" / "mlflow").exists()
    # What is not there can be told again, as the artifacts are.
    assert ran(run(second, "dvc", "repro", "-s", "-f", "track")) == {"track"}
    assert "128" in run(second, "sedd", "compare")
    assert run(second, "sedd", "sample", "--num", "1", "--seed", "0", "--steps", "2")
