"""A small Oxen repository with a history, and calls into Oxen that each have their own process.

Oxen holds a repository's databases until its process ends, so no test opens one in this process.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.oxen.local.snapshot import log_of


def in_oxen(code: str, *args: str, env: dict[str, str] | None = None) -> str:
    """Standard output of Python code with `oxen`, `Path` and `args`, without Oxen's own lines."""
    start = "import sys, oxen\nfrom pathlib import Path\nargs = sys.argv[1:]\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code, *args],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return "".join(line + "\n" for line in done.stdout.splitlines() if "🐂" not in line)


HISTORY = """
folder = Path(args[0])
repo = oxen.Repo(str(folder), mkdir=True)
repo.init()
(folder / "sub").mkdir()
for n in (1, 2):
    (folder / "a.jsonl").write_text('{"text": "first"}\\n' * n)
    (folder / "sub" / "b.txt").write_text(f"b{n}")
    repo.add(str(folder / "a.jsonl"))
    repo.add(str(folder / "sub"))
    print(repo.commit(f"number {n}").id)
(folder / "a.jsonl").write_text("the user's own change")
(folder / "mine.txt").write_text("not committed")
"""


@dataclass(frozen=True)
class History:
    """A repository of two commits, whose work tree has been changed since."""

    path: Path
    first: str
    second: str


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a store of its own and a home without an Oxen configuration."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OXEN_CONFIG_DIR", raising=False)
    return folder


@pytest.fixture(scope="session")
def configured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("oxen_config")
    (folder / "user_config.toml").write_text('name = "A User"\nemail = "user@example.org"\n')
    return {"OXEN_CONFIG_DIR": str(folder)}


@pytest.fixture(scope="session")
def shared_history(tmp_path_factory: pytest.TempPathFactory, configured: dict[str, str]) -> History:
    """Read only."""
    path = tmp_path_factory.mktemp("history") / "names"
    first, second = in_oxen(HISTORY, str(path), env=configured).split()
    return History(path, first, second)


@pytest.fixture
def history(shared_history: History, tmp_path: Path) -> History:
    """A test's own, to change."""
    shutil.copytree(shared_history.path, tmp_path / "names", copy_function=shutil.copy2)
    return replace(shared_history, path=tmp_path / "names")


@pytest.fixture
def log() -> Callable[[Path], list[tuple[str, str]]]:
    """Message and author of the commits of a repository's current branch, oldest first."""

    def read(repository: Path) -> list[tuple[str, str]]:
        return [(commit.message, commit.author) for commit in log_of(repository)][::-1]

    return read


@pytest.fixture
def messages(log: Callable[[Path], list[tuple[str, str]]]) -> Callable[[Path], list[str]]:
    """The messages alone."""
    return lambda repository: [message for message, _ in log(repository)]


@pytest.fixture
def run_oxen(configured: dict[str, str]) -> Callable[..., str]:
    """Run code with `oxen`, `Path` and `args` in a process of its own; its standard output."""
    return lambda code, *args: in_oxen(code, *map(str, args), env=configured)
