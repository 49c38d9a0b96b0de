"""Committing to a local Oxen repository, also under kills and with others at work."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_project import PATIENCE

from pipeline.errors import RepositoryError
from pipeline.oxen.local.process import run
from pipeline.oxen.opening import open_repository


def sources(folder: Path, **texts: str) -> dict[str, Path]:
    """Files to commit under runs/, by name."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {f"runs/{name}": folder / name for name in texts}


def test_a_repository_is_made_and_nothing_new_is_no_commit(project, tmp_path, messages):
    files = sources(tmp_path / "in", one="1", two="2")
    repository = open_repository("made/here", PATIENCE, create=True)
    assert repository.read("runs/one") is None
    assert not (project / "made").exists()
    assert repository.commit(files, "both")
    assert open_repository("made/here", PATIENCE, create=True).commit(files, "again") is None
    assert repository.read("runs/two") == "2"
    assert repository.commit(sources(tmp_path / "in", two="3"), "third")
    assert repository.read("runs/two") == "3"
    assert messages(project / "made/here") == ["both", "third"]


def test_an_empty_folder_becomes_a_repository_and_a_full_one_does_not(project, tmp_path):
    (project / "empty").mkdir()
    files = sources(tmp_path / "in", one="1")
    assert open_repository("empty", PATIENCE, create=True).commit(files, "one")
    assert open_repository("empty", PATIENCE).read("runs/one") == "1"
    (project / "full").mkdir()
    (project / "full" / "thesis.tex").write_text("")
    with pytest.raises(RepositoryError, match="full is no Oxen repository"):
        open_repository("full", PATIENCE, create=True)
    with pytest.raises(RepositoryError, match="can only be read"):
        open_repository("bundled", PATIENCE, create=True)


KILL_AT = """
import os, signal, sys
import oxen
from pipeline.oxen.local import committing, process
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
def then_die(call):
    return lambda *args, **kwargs: (call(*args, **kwargs), die())
where = sys.argv[1]
if where == "copying":
    committing.shutil.copyfile = lambda source, target: (target.write_text("ha"), die())
elif where == "first staged":
    oxen.Repo.add = then_die(oxen.Repo.add)
elif where == "all staged":
    oxen.Repo.commit = die
elif where == "committed":
    oxen.Repo.commit = then_die(oxen.Repo.commit)
process.main()
"""


@pytest.mark.slow
def test_after_kills_the_next_commit_succeeds_with_one_copy(
    project, tmp_path, messages, run_oxen: Callable[..., str]
):
    files = sources(tmp_path / "in", one="1", two="2")
    path = project.resolve() / "made"
    arguments = {
        "repository": str(path),
        "files": {name: str(source) for name, source in files.items()},
        "message": "both",
    }

    def killed(where: str) -> None:
        request = json.dumps({"operation": "commit", "arguments": arguments})
        command = [sys.executable, "-c", KILL_AT, where]
        done = subprocess.run(command, input=request, text=True, check=False)
        assert done.returncode == -signal.SIGKILL

    killed("first staged")
    assert not path.exists()
    repository = open_repository("made", PATIENCE, create=True)
    assert repository.commit(sources(tmp_path / "in", zero="0"), "before")
    for where in ("copying", "first staged", "all staged"):
        killed(where)
    assert repository.commit(sources(tmp_path / "in", three="3"), "other")
    # What the killed ones had staged is no part of the other's commit.
    assert repository.read("runs/one") is None
    killed("committed")
    assert repository.commit(files, "both") is None
    assert messages(path) == ["before", "other", "both"]
    names = ["one", "three", "two", "zero"]
    assert sorted(file.name for file in (path / "runs").iterdir()) == names
    assert list(path.parent.glob(".made*")) == []
    assert run_oxen("print(oxen.Repo(args[0]).status().is_clean())", path) == "True\n"


def test_brackets_in_the_repositorys_path_are_no_pattern(project, tmp_path):
    repository = open_repository("x[1]/made[1]*?", PATIENCE, create=True)
    assert repository.commit(sources(tmp_path / "1", one="1"), "first")
    assert repository.commit(sources(tmp_path / "2", one="2"), "second")
    assert repository.read("runs/one") == "2"


def test_a_file_whose_name_is_a_pattern_is_refused(project, tmp_path):
    (source,) = sources(tmp_path / "in", one="1").values()
    repository = open_repository("made", PATIENCE, create=True)
    with pytest.raises(RepositoryError) as error:
        repository.commit({"a": source, "b[1].txt": source, "c?/d": source}, "patterns")
    assert str(error.value).endswith(" for a pattern: rename b[1].txt, c?/d")
    assert not (project / "made").exists()


def test_processes_make_and_commit_at_once(project, tmp_path, messages):
    (source,) = sources(tmp_path / "in", one="1").values()
    command = [sys.executable, "-m", "pipeline.oxen.local.process"]
    three = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    path = str(project.resolve() / "made")
    for name, process in zip("abc", three, strict=True):
        arguments = {"repository": path, "files": {name: str(source)}, "message": name}
        assert process.stdin is not None
        json.dump({"operation": "commit", "arguments": arguments}, process.stdin)
        process.stdin.close()
    for process in three:
        with process:
            assert process.stdout is not None
            assert json.load(process.stdout)["result"]
    assert sorted(messages(Path(path))) == ["a", "b", "c"]


HOLD = """
import sys, time
from pathlib import Path
import oxen
repo = oxen.Repo(sys.argv[1])
repo.branches()
Path(sys.argv[2]).touch()
time.sleep(2)
"""


def test_a_stranger_with_the_repository_open_is_waited_for(history, tmp_path):
    held = tmp_path / "held"
    stranger = subprocess.Popen([sys.executable, "-c", HOLD, str(history.path), str(held)])
    while not held.exists():
        time.sleep(0.02)
    files = sources(tmp_path / "in", one="1")
    assert open_repository(str(history.path), PATIENCE).commit(files, "after the stranger")
    assert stranger.wait() == 0


def test_what_somebody_else_staged_is_not_committed(
    history, tmp_path, run_oxen: Callable[..., str]
):
    run_oxen('oxen.Repo(args[0]).add(args[0] + "/mine.txt")', history.path)
    files = sources(tmp_path / "in", one="1")
    with pytest.raises(RepositoryError, match=r"has staged files: .* mine\.txt"):
        open_repository(str(history.path), PATIENCE).commit(files, "one")
    assert not (history.path / "runs").exists()


def test_a_file_that_oxen_leaves_out_is_an_error(history, tmp_path):
    (history.path / ".oxenignore").write_text("runs\n")
    files = sources(tmp_path / "in", one="1")
    with pytest.raises(RepositoryError, match=r"Oxen left out runs/one: does \.oxenignore name it"):
        open_repository(str(history.path), PATIENCE).commit(files, "one")


def test_a_users_configuration_is_used_and_never_written(tmp_path, project, log):
    theirs = tmp_path / "home" / ".config" / "oxen" / "user_config.toml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text('name = "Ada"\nemail = "ada@example.org"\n')
    repository = open_repository("made", PATIENCE, create=True)
    files = sources(tmp_path / "in", one="1")
    assert repository.commit(files, "one")
    assert log(project / "made") == [("one", "Ada")]
    assert theirs.read_text() == 'name = "Ada"\nemail = "ada@example.org"\n'
    theirs.write_text("damaged")
    with pytest.raises(RepositoryError, match=r"user_config\.toml is damaged: .* run oxen config"):
        repository.commit(files, "two")
    assert theirs.read_text() == "damaged"
    assert [path.name for path in theirs.parent.iterdir()] == [theirs.name]


def test_without_a_configuration_the_home_stays_untouched(project, tmp_path, log):
    open_repository("made", PATIENCE, create=True).commit(sources(tmp_path / "in", one="1"), "one")
    assert not (tmp_path / "home").exists()
    assert (project / ".store" / "oxen" / "config" / "user_config.toml").is_file()
    assert log(project / "made") == [("one", "text-diffusion-pipeline")]


def test_a_process_that_breaks_is_said(project, capfd):
    with pytest.raises(RepositoryError, match="process ended with status 1 during nonsense"):
        run("nonsense", str(project))
    assert "KeyError: 'nonsense'" in capfd.readouterr().err
