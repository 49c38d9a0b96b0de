"""A repository on a real Oxen server: read, committed to, and by many at once."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash
from tiny_project import NETWORK

from pipeline.errors import RepositoryError
from pipeline.remote.repository import Entry, Repository, open_repository

_NAMES = itertools.count()


@pytest.fixture
def url(oxen_server) -> str:
    """The address of a repository that is not there yet."""
    return oxen_server.url("remote-tests", f"names-{next(_NAMES)}")


@pytest.fixture
def repository(url) -> Repository:
    return open_repository(url, NETWORK, create=True)


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
    reading = open_repository(url, NETWORK)
    for call in (
        lambda: reading.resolve("main"),
        lambda: reading.entries("0" * 32),
        lambda: reading.fetch("0" * 32, {"a": "a.jsonl"}, Path("out")),
        lambda: reading.read("a.jsonl"),
        lambda: reading.commit(sources(FIRST), "first"),
    ):
        with pytest.raises(RepositoryError, match=f"{url} does not exist, or this account may"):
            call()
    assert open_repository(url, NETWORK, create=True).read("a.jsonl") is None
