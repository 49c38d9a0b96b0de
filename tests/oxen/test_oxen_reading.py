"""Reading a local Oxen repository at a commit."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import xxhash
from tiny_project import PATIENCE

from pipeline.errors import RepositoryError
from pipeline.oxen.opening import open_repository
from pipeline.oxen.repository import Entry

FIRST = b'{"text": "first"}\n'


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
        )
        for path in [folder, *folder.rglob("*")]
    }


def test_an_old_commit_is_fetched_and_the_repository_is_left_as_it_was(shared_history, tmp_path):
    before = state(shared_history.path)
    repository = open_repository(str(shared_history.path), PATIENCE)
    target = tmp_path / "out"
    target.mkdir()
    repository.fetch(shared_history.first, {"a": "a.jsonl", "b": "sub/b.txt"}, target)
    assert (target / "a.jsonl").read_bytes() == FIRST
    assert (target / "sub" / "b.txt").read_text() == "b1"
    assert sorted(path.name for path in target.iterdir()) == ["a.jsonl", "sub"]
    assert state(shared_history.path) == before


def test_read_is_at_the_head_whatever_the_work_tree_says(shared_history):
    repository = open_repository(str(shared_history.path), PATIENCE)
    assert repository.read("a.jsonl") == FIRST.decode() * 2
    assert repository.read("mine.txt") is None


def test_entries_have_size_and_hash(shared_history):
    entries = open_repository(str(shared_history.path), PATIENCE).entries(shared_history.first)
    assert entries == [
        Entry("a.jsonl", len(FIRST), xxhash.xxh3_128_hexdigest(FIRST), rows=1),
        Entry("sub/b.txt", 2, xxhash.xxh3_128_hexdigest(b"b1")),
    ]


COMMIT_ALL = """
repo = oxen.Repo(args[0])
repo.init()
for folder in Path(args[0]).glob("[!.]*"):
    repo.add(str(folder))
print(repo.commit("all").id)
"""


@pytest.mark.parametrize(
    "name",
    ["s/u[a]/b?.jsonl"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("d/d[1].jsonl", "d/x [1].jsonl", "s/[*].jsonl")
    ],
)
def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path, run_oxen, name):
    for each, content in ((name, FIRST), ("d/d1.jsonl", FIRST * 2)):
        (tmp_path / "made" / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / each).write_bytes(content)
    commit = run_oxen(COMMIT_ALL, tmp_path / "made").strip()
    repository = open_repository(str(tmp_path / "made"), PATIENCE)
    repository.fetch(commit, {"data.files.train": name}, tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == FIRST
    assert repository.read(name) == FIRST.decode()
    assert {entry.path for entry in repository.entries(commit)} == {name, "d/d1.jsonl"}


def test_resolve(shared_history):
    repository = open_repository(str(shared_history.path), PATIENCE)
    assert repository.resolve(shared_history.first) == shared_history.first
    assert repository.resolve("main") == shared_history.second


@pytest.mark.parametrize("revision", ["short", "../main"])
def test_an_unknown_revision_lists_what_there_is(shared_history, revision):
    asked = shared_history.first[:8] if revision == "short" else revision
    with pytest.raises(RepositoryError) as error:
        open_repository(str(shared_history.path), PATIENCE).resolve(asked)
    assert f"no commit {asked} " in str(error.value)
    assert f"main at {shared_history.second}" in str(error.value)
    assert f"{shared_history.first}  number 1" in str(error.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("c.txt", "KEY: {path} has no file c.txt at commit {first}; it has a.jsonl, sub"),
        ("sub/c.txt", "KEY: {path} has no file sub/c.txt at commit {first}; it has a.jsonl, sub/b"),
        ("sub", "KEY: sub of {path} is a folder: name a file"),
        ("../a.jsonl", "KEY: no path inside the repository (got ../a.jsonl)"),
        (".oxen/HEAD", "KEY: {path} has no file .oxen/HEAD"),
    ],
)
def test_a_missing_file_names_its_key_and_leaves_nothing(shared_history, tmp_path, file, message):
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(RepositoryError) as error:
        open_repository(str(shared_history.path), PATIENCE).fetch(
            shared_history.first, {"A": "a.jsonl", "KEY": file}, target
        )
    right = message.format(path=shared_history.path, first=shared_history.first)
    assert str(error.value).startswith(right)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "short", "gone"])
def test_damaged_content_is_refused(history, tmp_path, damage):
    contents = history.path.glob(".oxen/versions/files/*/*/data")
    (content,) = [path for path in contents if path.read_bytes() == FIRST]
    if damage == "flipped":
        content.write_bytes(FIRST.replace(b"first", b"fIrst"))
    elif damage == "short":
        content.write_bytes(FIRST[:-3])
    else:
        content.unlink()
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(RepositoryError, match=r"damaged content of a\.jsonl|lacks its content"):
        open_repository(str(history.path), PATIENCE).fetch(
            history.first, {"b": "sub/b.txt", "a": "a.jsonl"}, target
        )
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("operation", ["resolve", "entries"])
def test_a_copy_that_broke_off_kills_no_process_of_ours(history, share, operation):
    database = history.path / ".oxen" / "tree" / "nodes_lmdb" / "data.mdb"
    os.truncate(database, int(database.stat().st_size * share))
    repository = open_repository(str(history.path), PATIENCE)
    with suppress(RepositoryError):
        assert getattr(repository, operation)(history.first)
        assert share > 0.5


@pytest.mark.parametrize("place", ["", "refs", "versions/files"])
@pytest.mark.parametrize("odd", ["link", "device", "nowhere", "pipe"])
def test_what_is_no_file_of_a_repository_is_not_read(history, place, odd):
    path = history.path / ".oxen" / place / "x"
    if odd == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link": "/", "device": "/dev/zero", "nowhere": "nowhere"}[odd])
    with pytest.raises(RepositoryError) as error:
        open_repository(str(history.path), PATIENCE).resolve("main")
    assert str(error.value).startswith(f"{path} is neither file nor folder")


def test_an_operation_that_does_not_end_is_ended(history, monkeypatch):
    monkeypatch.setattr("pipeline.oxen.local.process.LONGEST_SECONDS", 0.01)
    with pytest.raises(RepositoryError, match=r"Oxen has not ended resolve within 0 s"):
        open_repository(str(history.path), PATIENCE).resolve("main")


def test_content_whose_hash_starts_with_a_zero(tmp_path):
    texts = (b"%d" % number for number in range(1000))
    text = next(text for text in texts if xxhash.xxh3_128_hexdigest(text).startswith("00"))
    (tmp_path / "in").write_bytes(text)
    repository = open_repository("made", PATIENCE, create=True)
    commit = repository.commit({"a.txt": tmp_path / "in"}, "a")
    assert repository.read("a.txt") == text.decode()
    (entry,) = repository.entries(commit)
    assert entry.hash == xxhash.xxh3_128_hexdigest(text).lstrip("0")


ONTO_A_COMMIT = """
repo = oxen.Repo(args[0])
repo.restore("a.jsonl")  # else checkout refuses
try:
    repo.checkout(args[1])
except ValueError:
    pass  # it says so, and does it
(Path(args[0]) / "a.jsonl").write_text("moved")
repo.add(str(Path(args[0]) / "a.jsonl"))
repo.commit("onto a checked-out commit")
assert args[1] in [branch.name for branch in repo.branches()]
"""


def test_a_branch_named_as_a_commit_does_not_hide_it(
    history, tmp_path, run_oxen: Callable[..., str]
):
    run_oxen(ONTO_A_COMMIT, history.path, history.first)
    repository = open_repository(str(history.path), PATIENCE)
    target = tmp_path / "out"
    target.mkdir()
    repository.fetch(repository.resolve(history.first), {"a": "a.jsonl"}, target)
    assert (target / "a.jsonl").read_bytes() == FIRST
    with pytest.raises(RepositoryError, match="has a commit checked out"):
        repository.commit({"x": target / "a.jsonl"}, "x")


FETCH = """
import sys
from pathlib import Path
from pipeline.config.data import Patience
from pipeline.oxen.opening import open_repository
PATIENCE = Patience(connect_seconds=1, stall_seconds=1, retries=1)
Path(sys.argv[3]).mkdir()
open_repository(sys.argv[1], PATIENCE).fetch(sys.argv[2], {"a": "a.jsonl"}, Path(sys.argv[3]))
"""


def test_processes_fetch_at_once_while_another_commits(history, tmp_path):
    command = [sys.executable, "-c", FETCH, str(history.path), history.first]
    fetchers = [subprocess.Popen([*command, str(tmp_path / f"out{i}")]) for i in range(3)]
    source = tmp_path / "new.txt"
    source.write_text("new")
    assert open_repository(str(history.path), PATIENCE).commit({"new.txt": source}, "new")
    assert [process.wait() for process in fetchers] == [0] * 3
    for i in range(3):
        assert (tmp_path / f"out{i}" / "a.jsonl").read_bytes() == FIRST


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("nowhere", "no Oxen repository at {project}/nowhere"),
        ("folder", "{project}/folder is no Oxen repository (it has no .oxen folder)"),
        ("folder/file", "{project}/folder/file is no Oxen repository (it has no .oxen folder)"),
    ],
)
def test_what_is_no_local_repository_is_said(project, repo, message):
    (project / "folder").mkdir()
    (project / "folder" / "file").write_text("")
    with pytest.raises(RepositoryError) as error:
        open_repository(repo, PATIENCE)
    assert str(error.value).startswith(message.format(project=project.resolve()))
    assert not (project / "nowhere").exists()


def test_a_relative_path_hangs_off_the_project(shared_history, project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = os.path.relpath(shared_history.path, project)
    assert str(open_repository(relative, PATIENCE)) == str(shared_history.path.resolve())


def test_what_is_whole_is_kept_and_what_is_not_is_fetched(shared_history, tmp_path):
    repository = open_repository(str(shared_history.path), PATIENCE)
    files = {"a": "a.jsonl", "b": "sub/b.txt"}
    repository.fetch(shared_history.first, files, tmp_path / "out")
    kept, spoiled = tmp_path / "out" / "a.jsonl", tmp_path / "out" / "sub" / "b.txt"
    os.utime(kept, (1, 1))
    spoiled.write_text("b?")
    repository.fetch(shared_history.first, files, tmp_path / "out")
    assert kept.stat().st_mtime == 1
    assert spoiled.read_text() == "b1"
