"""What the shipped cache type makes of outs, and how one that was changed in place is mended."""

import shutil

import pytest
import yaml
from dvc.repo import Repo
from tiny_project import PROJECT

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A project of one stage, with the shipped configuration of DVC."""
    monkeypatch.chdir(tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    shutil.copy(PROJECT / ".dvc/config", tmp_path / ".dvc/config")
    (tmp_path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "text").write_text("text\n")
    stage = {"cmd": "mkdir out && cp text out/file", "deps": ["text"], "outs": ["out"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    with Repo(str(tmp_path)) as repo:
        yield repo


def test_outs_are_read_only_links_into_the_cache(repo, tmp_path):
    repo.reproduce()
    out = (tmp_path / "out/file").stat()
    assert (out.st_nlink, out.st_mode & 0o777) == (2, 0o444)
    assert out.st_ino in {path.stat().st_ino for path in (tmp_path / ".dvc/cache").rglob("*")}


def test_an_out_changed_in_place_comes_back_once_dvc_is_made_to_look(repo, tmp_path):
    repo.reproduce()
    out = tmp_path / "out/file"
    # As root can without it.
    out.chmod(0o644)
    out.write_text("texts\n")
    out.chmod(0o444)
    repo.reproduce()
    assert out.read_text() == "texts\n"  # DVC trusts what is read-only.
    out.chmod(0o644)
    repo.reproduce()
    assert out.read_text() == "text\n"
    assert out.stat().st_nlink == 2
