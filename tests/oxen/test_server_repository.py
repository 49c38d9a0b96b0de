"""A repository on a real Oxen server: read, committed to, and by many at once."""

import itertools
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import xxhash
from faulty_server import Request, serving
from tiny_project import PATIENCE, PROJECT

from pipeline.errors import RepositoryError, ServerError
from pipeline.oxen.opening import open_repository
from pipeline.oxen.repository import Entry, Repository
from pipeline.oxen.server import sending

_NAMES = itertools.count()


@pytest.fixture
def url(oxen_server) -> str:
    """The address of a repository that is not there yet."""
    return oxen_server.url("remote-tests", f"names-{next(_NAMES)}")


@pytest.fixture
def repository(url) -> Repository:
    return open_repository(url, PATIENCE, create=True)


@pytest.fixture
def sources(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Files as `commit` takes them, from path -> content."""

    def write(contents: dict[str, bytes]) -> dict[str, Path]:
        paths = {}
        for number, (path, content) in enumerate(contents.items()):
            paths[path] = tmp_path / f"source-{number}"
            paths[path].write_bytes(content)
        return paths

    return write


FIRST = {
    "a.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "sub/deep/b.txt": b"b",
    ".hidden/ü ?#%.txt": b"odd",
    "sub/empty.txt": b"",
}


def test_what_is_committed_is_listed_and_fetched(repository, sources, tmp_path):
    commit = repository.commit(sources(FIRST), "first")
    assert repository.resolve("main") == repository.resolve(commit) == commit
    entries = repository.entries(commit)
    assert [entry.path for entry in entries] == sorted(FIRST)
    assert entries[1] == Entry(
        "a.jsonl", 32, f"{xxhash.xxh3_128(FIRST['a.jsonl']).intdigest():x}", rows=2
    )
    repository.fetch(commit, {path: path for path in FIRST}, tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == FIRST
    assert repository.read("a.jsonl") == FIRST["a.jsonl"].decode()
    assert repository.read("nothing") is None


def test_an_old_commit_stays_what_it_was(repository, sources, tmp_path):
    first = repository.commit(sources(FIRST), "first")
    second = repository.commit(sources({"a.jsonl": b"{}\n"}), "second")
    assert repository.resolve("main") == second
    repository.fetch(first, {"a": "a.jsonl"}, tmp_path / "out")
    assert (tmp_path / "out" / "a.jsonl").read_bytes() == FIRST["a.jsonl"]
    assert [entry.path for entry in repository.entries(second)] == sorted(FIRST)


def test_the_same_files_again_are_no_commit(repository, sources, oxen_server, url):
    assert repository.commit(sources(FIRST), "first")
    assert repository.commit(sources(FIRST), "again") is None
    assert oxen_server.get(f"/repos/{url.split('/', 3)[3]}/workspaces")["workspaces"] == []


def test_a_repository_that_is_not_there(url, sources):
    reading = open_repository(url, PATIENCE)
    for call in (
        lambda: reading.resolve("main"),
        lambda: reading.entries("0" * 32),
        lambda: reading.fetch("0" * 32, {"a": "a.jsonl"}, Path("out")),
        lambda: reading.read("a.jsonl"),
        lambda: reading.commit(sources(FIRST), "first"),
    ):
        with pytest.raises(RepositoryError, match=f"{url} does not exist, or this account may"):
            call()
    assert open_repository(url, PATIENCE, create=True).read("a.jsonl") is None


def test_what_a_commit_does_not_have_is_said(repository, sources, url, tmp_path):
    commit = repository.commit(sources(FIRST), "first")
    for file, message in {
        "c.txt": f"KEY: {url} has no file c.txt at commit {commit}; its folder has .hidden, a.json",
        "sub/c": f"KEY: {url} has no file sub/c at commit {commit}; its folder has sub/deep",
        "no/c": f"KEY: {url} has no file no/c at commit {commit}; its folder has nothing",
        "sub": f"KEY: sub of {url} is a folder: name a file",
        "../a.jsonl": "KEY: no path inside the repository (got ../a.jsonl)",
        "": "KEY: no path inside the repository (got )",
    }.items():
        with pytest.raises(RepositoryError) as error:
            repository.fetch(commit, {"KEY": file}, tmp_path / "out")
        assert str(error.value).startswith(message)
    assert not (tmp_path / "out").exists()
    other = "0" * 31 + "1"
    for revision in (commit[:8], other, "no-branch"):
        with pytest.raises(RepositoryError) as error:
            repository.resolve(revision)
        assert f"{url} has no commit {revision} (full commit ids" in str(error.value)
        assert f"branches: main at {commit}; newest commits:\n  {commit}  first" in str(error.value)
    with pytest.raises(RepositoryError, match=f"{url} has no commit {other}"):
        repository.entries(other)
    with pytest.raises(RepositoryError, match=f"KEY: {url} has no commit {other}"):
        repository.fetch(other, {"KEY": "a.jsonl"}, tmp_path / "out")


def test_an_empty_repository(oxen_server, url, sources):
    namespace, name = url.split("/")[-2:]
    request = urllib.request.Request(
        f"http://{oxen_server.host}/api/repos",
        json.dumps({"namespace": namespace, "name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()
    repository = open_repository(url, PATIENCE)
    assert repository.read("a.jsonl") is None
    with pytest.raises(RepositoryError, match="branches: none; newest commits: none"):
        repository.resolve("main")
    assert repository.commit(sources(FIRST), "first") == repository.resolve("main")


def test_pages_and_folders_of_a_long_listing(repository, sources, monkeypatch):
    monkeypatch.setattr("pipeline.oxen.server.api._PAGE", 3)
    files = {f"{folder}{n:02}.txt": b"x" for folder in ("", "d/", "d/e/") for n in range(7)}
    commit = repository.commit(sources(files), "many")
    assert {entry.path for entry in repository.entries(commit)} == set(files)


def test_files_of_many_parts_are_sent_in_little_memory(repository, tmp_path):
    source = tmp_path / "big.bin"
    source.write_bytes(random.Random(0).randbytes(25 << 20))
    commit = repository.commit({"big.bin": source}, "big")
    repository.fetch(commit, {"f": "big.bin"}, tmp_path / "out")
    assert (tmp_path / "out" / "big.bin").read_bytes() == source.read_bytes()


COMMIT = """
import sys
from pathlib import Path
from pipeline.config.data import Patience
from pipeline.oxen.opening import open_repository
repository = open_repository(sys.argv[1], Patience(connect_seconds=5, stall_seconds=20, retries=4),
                             create=True)
names = [name.split("=") for name in sys.argv[3:]]
print(repository.commit({path: Path(source) for path, source in names}, sys.argv[2]))
"""


def committing(url: str, message: str, files: dict[str, Path]) -> "subprocess.Popen[str]":
    """A process that commits."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMIT, url, message, *(f"{p}={s}" for p, s in files.items())],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def messages(server, url: str) -> list[str]:
    """Of all commits of main, oldest first, but the one that makes a repository."""
    log = server.get(f"/repos/{url.split('/', 3)[3]}/commits/history/main?page_size=1000")
    return [commit["message"] for commit in log["commits"]][-2::-1]


@pytest.mark.slow
def test_processes_commit_at_once_and_all_stays(oxen_server, url, sources):
    one, other = sources({"one.txt": b"1", "shared.txt": b"s"}), sources({"other.txt": b"2"})
    for turn in range(3):
        for path, source in {**one, **other}.items():
            source.with_name(f"{path}-{turn}").write_text(f"{path} {turn}")
        jobs = [
            committing(
                url,
                f"{names[0]} {turn}",
                {f"{n}-{turn}": one["one.txt"].with_name(f"{n}-{turn}") for n in names},
            )
            for names in (["one.txt", "shared.txt"], ["other.txt", "shared.txt"])
        ]
        ids = [job.communicate(timeout=60)[0].strip() for job in jobs]
        assert all(job.returncode == 0 for job in jobs)
        assert len(set(ids)) == 2
        assert "None" not in ids
    assert sorted(messages(oxen_server, url)) == sorted(
        f"{name}.txt {turn}" for name in ("one", "other") for turn in range(3)
    )
    found = open_repository(url, PATIENCE).entries("main")
    assert len(found) == 9


def test_a_file_that_another_changed_meanwhile(oxen_server, url, sources, monkeypatch):
    repository = open_repository(url, PATIENCE, create=True)
    repository.commit(sources({"shared.txt": b"0"}), "zero")
    real, turns = sending._Workspace.commit, iter(range(3))

    def late(workspace: object, message: str) -> str:
        if message == "mine" and (turn := next(turns, None)) is not None:
            theirs = open_repository(url, PATIENCE)
            theirs.commit(sources({"shared.txt": b"theirs %d" % turn}), f"theirs {turn}")
            sources({"shared.txt": b"mine"})
        return real(workspace, message)

    monkeypatch.setattr(sending._Workspace, "commit", late)
    assert repository.commit(sources({"shared.txt": b"mine"}), "mine")
    assert repository.read("shared.txt") == "mine"
    assert messages(oxen_server, url) == ["zero", "theirs 0", "theirs 1", "theirs 2", "mine"]


def test_a_lost_answer_is_no_second_commit(oxen_server, sources):
    def fault(request: Request) -> object:
        if "/merge/" not in request.path or lost:
            return False
        lost.append(request.forwarded())
        return request.cut()

    lost: list[object] = []
    with serving(fault, oxen_server.host) as proxy:
        repository = open_repository(proxy.url.replace("/ns/", "/lost/"), PATIENCE, create=True)
        commit = repository.commit(sources({"a.txt": b"a"}), "once")
        assert commit == repository.resolve("main")
    assert messages(oxen_server, oxen_server.url("lost", "name")) == ["once"]


@pytest.mark.slow
@pytest.mark.parametrize("done", [True, False])
def test_killed_at_any_request_then_committed_once(oxen_server, url, tmp_path, done):
    """`done`: whether the server still gets the request that its sender does not survive."""

    def fault(request: Request) -> object:
        if process is None or len(proxy.seen) < last:
            return False
        if done:
            request.forwarded()
        process.kill()
        return request.cut()

    repository = open_repository(url, PATIENCE, create=True)
    rng, process, last = random.Random(0), None, 1
    with serving(fault, oxen_server.host) as proxy:
        behind = url.replace(oxen_server.host, proxy.host)
        for last in range(1, 20):
            proxy.seen.clear()
            files = {f"{name}-{last}": tmp_path / f"{name}-{last}" for name in ("big", "small")}
            files[f"big-{last}"].write_bytes(rng.randbytes(11 << 20))
            files[f"small-{last}"].write_text(f"{last}")
            process = committing(behind, f"turn {last}", files)
            process.communicate(timeout=60)
            survived = process.returncode == 0
            repository.commit(files, f"turn {last}")
            if survived:
                break
    assert survived
    assert last > 8  # a branch, a listing, a workspace, parts of two files, and the commit
    assert messages(oxen_server, url) == [f"turn {turn}" for turn in range(1, last + 1)]
    assert len(open_repository(url, PATIENCE).entries("main")) == 2 * last
    assert oxen_server.get(f"/repos/{url.split('/', 3)[3]}/workspaces")["workspaces"] == []


@pytest.mark.slow
def test_the_server_is_killed_while_it_sends(own_oxen_server, tmp_path):
    url = own_oxen_server.url("ns", "name")
    files = {f"f{n}.bin": tmp_path / f"f{n}.bin" for n in range(6)}
    for seed, source in enumerate(files.values()):
        source.write_bytes(random.Random(seed).randbytes(24 << 20))
    repository = open_repository(url, PATIENCE, create=True)
    commit = repository.commit(files, "files")
    out = tmp_path / "out"
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(repository.fetch, commit, {path: path for path in files}, out)
        while not any(path.stat().st_size for path in out.glob(".*.partial")):
            time.sleep(0.001)
        own_oxen_server.kill()
        with pytest.raises(ServerError, match=r"oxen\.retries"):
            fetching.result(timeout=30)
    assert list(out.glob(".*.partial")) == []
    own_oxen_server.restart()
    kept = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    repository.fetch(commit, {path: path for path in files}, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        name: source.read_bytes() for name, source in files.items()
    }
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.slow
def test_the_server_is_killed_while_it_receives(own_oxen_server, tmp_path):
    url = own_oxen_server.url("ns", "name")
    repository = open_repository(url, PATIENCE, create=True)
    rng = random.Random(1)
    for turn in range(3):
        files = {f"{turn}-{n}": tmp_path / f"{turn}-{n}" for n in range(3)}
        for source in files.values():
            source.write_bytes(rng.randbytes(15 << 20))
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(repository.commit, files, f"turn {turn}")
            time.sleep(rng.uniform(0.02, 0.3))
            own_oxen_server.kill()
            failed = sent.exception(timeout=30)
        assert failed is None or isinstance(failed, ServerError)
        own_oxen_server.restart()
        repository.commit(files, f"turn {turn}")
        assert messages(own_oxen_server, url)[-1] == f"turn {turn}"
    assert messages(own_oxen_server, url) == ["turn 0", "turn 1", "turn 2"]
    assert len(repository.entries("main")) == 9
