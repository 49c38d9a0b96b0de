"""The names that ship with the project."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.errors import RepositoryError
from pipeline.oxen.bundled import SHIPPED, BundledRepository, shipped_revision

ROOT = Path(__file__).parents[2]
FILES = {"data.files.train": "train.parquet", "data.files.test": "test.parquet"}


def target(tmp_path: Path, name: str = "out") -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_the_pinned_revision_is_that_of_the_shipped_files():
    pinned = yaml.safe_load((ROOT / "params.yaml").read_text())["data"]["revision"]
    assert shipped_revision() == pinned
    assert BundledRepository().resolve(pinned) == pinned


def test_another_revision_is_refused_with_the_right_one():
    with pytest.raises(RepositoryError) as error:
        BundledRepository().resolve("98717ad")
    assert shipped_revision() in str(error.value)
    assert "(got 98717ad)" in str(error.value)


FETCH = """
import sys
from pathlib import Path
from pipeline.oxen.bundled import BundledRepository, shipped_revision
Path(sys.argv[1]).mkdir()
files = {"data.files.train": "train.parquet", "data.files.test": "test.parquet"}
BundledRepository().fetch(shipped_revision(), files, Path(sys.argv[1]))
"""


def test_processes_seed_it_once_and_fetch_what_ships(project, tmp_path, messages):
    folders = [tmp_path / "first", tmp_path / "second"]
    both = [subprocess.Popen([sys.executable, "-c", FETCH, str(folder)]) for folder in folders]
    assert [process.wait() for process in both] == [0, 0]
    for folder in folders:
        for name in FILES.values():
            assert (folder / name).read_bytes() == (SHIPPED / name).read_bytes()
    revisions = messages(project / ".store" / "oxen" / "baby_names")
    assert revisions == [f"Baby names, revision {shipped_revision()}"]


KILL = """
import os, signal, sys
import oxen
from pipeline.oxen.local import process as operations
call = getattr(oxen.Repo, sys.argv[1])
def then_die(*args, **kwargs):
    call(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(oxen.Repo, sys.argv[1], then_die)
operations.main()
"""


def test_kills_while_seeding_leave_no_broken_one(project, tmp_path):
    path = project.resolve() / ".store" / "oxen" / "baby_names"
    request = {
        "operation": "seed",
        "arguments": {
            "repository": str(path),
            "files": {name: str(SHIPPED / name) for name in FILES.values()},
            "message": "whatever",
        },
    }
    for after in ("init", "commit"):
        done = subprocess.run(
            [sys.executable, "-c", KILL, after], input=json.dumps(request), text=True, check=False
        )
        assert done.returncode == -signal.SIGKILL
        assert not path.exists()
    folder = target(tmp_path)
    BundledRepository().fetch(shipped_revision(), FILES, folder)
    assert (folder / "train.parquet").read_bytes() == (SHIPPED / "train.parquet").read_bytes()
    assert sorted(left.name for left in path.parent.iterdir()) == ["baby_names", "config"]


def test_other_shipped_files_are_another_commit(tmp_path, project, messages):
    older, folder = tmp_path / "older", target(tmp_path)
    shutil.copytree(SHIPPED, older)
    shutil.copyfile(older / "test.parquet", older / "train.parquet")
    BundledRepository(older).fetch(shipped_revision(older), FILES, target(tmp_path, "old"))
    BundledRepository().fetch(shipped_revision(), FILES, folder)
    assert (folder / "train.parquet").read_bytes() == (SHIPPED / "train.parquet").read_bytes()
    assert len(messages(project / ".store" / "oxen" / "baby_names")) == 2


def test_a_repository_that_holds_other_bytes_is_refused(
    project, tmp_path, run_oxen: Callable[..., str]
):
    """As when the store was seeded by hand under the same message."""
    revision = shipped_revision()
    run_oxen(
        """
folder = Path(args[0])
repo = oxen.Repo(str(folder), mkdir=True)
repo.init()
for name in ("train.parquet", "test.parquet"):
    (folder / name).write_text("other")
    repo.add(str(folder / name))
repo.commit(f"Baby names, revision {args[1]}")
""",
        project / ".store" / "oxen" / "baby_names",
        revision,
    )
    with pytest.raises(RepositoryError, match=r"train\.parquet of .* is not the shipped one"):
        BundledRepository().fetch(revision, FILES, target(tmp_path))
