"""What waits to be sent: kept whole, in order, once."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_server import Request, serving

from pipeline.config.data import Patience
from pipeline.errors import RepositoryError, ServerError
from pipeline.oxen.local.snapshot import log_of
from pipeline.oxen.opening import open_repository
from pipeline.oxen.server import sending
from pipeline.publishing import spool as spooling
from pipeline.publishing.spool import Spool, spool_for, waiting_spools

PATIENCE = Patience(connect_seconds=1, stall_seconds=1, retries=0)
PUT = """
import sys
from pathlib import Path
from pipeline.publishing.spool import spool_for
for n in range(200):
    path = Path(sys.argv[1], f"{n}.bin")
    path.write_bytes(bytes([n]) * 200_000)
    spool_for("r").put("r", {f"a/{n}.bin": path, f"b/{n}.bin": path}, f"number {n}")
"""


@pytest.fixture
def spool(project: Path) -> Spool:
    return spool_for(str(project / "published"))


def put(spool: Spool, message: str, **texts: str) -> str:
    """Spool files of these texts for the local repository; the name of the item's folder."""
    sources = {}
    for name, text in texts.items():
        source = Path(f"{name}.source")
        source.write_text(text)
        sources[f"texts/{name}.txt"] = source
    return spool.put(str(Path("published").resolve()), sources, message).folder.name


def messages() -> list[str]:
    return [commit.message for commit in log_of(Path("published").resolve())][::-1]


def test_what_waits_is_committed_in_order_and_once(spool):
    names = [put(spool, f"number {n}", a=str(n)) for n in range(3)]
    assert [item.message for item in spool.items()] == ["number 0", "number 1", "number 2"]
    # The sources may change, or go: what waits is a copy.
    Path("a.source").unlink()
    flushed = spool.flush(PATIENCE)
    assert list(flushed.sent) == names
    assert all(flushed.sent.values())
    assert flushed.failure is None
    assert messages() == ["number 0", "number 1", "number 2"]
    assert Path("published/texts/a.txt").read_text() == "2"
    assert spool.items() == []
    assert waiting_spools() == []
    # The same again: the head has it all.
    again = put(spool, "number 2", a="2")
    assert spool.flush(PATIENCE).sent == {again: None}
    assert len(messages()) == 3


def test_the_same_waits_once_unless_its_files_were_replaced_meanwhile(spool):
    first = put(spool, "one", a="1")
    assert put(spool, "one", a="1") == first
    other = put(spool, "other", b="1")
    assert put(spool, "one", a="1") == first
    replaced = put(spool, "two", a="2")
    last = put(spool, "one", a="1")
    assert [item.folder.name for item in spool.items()] == [first, other, replaced, last]
    assert spool.flush(PATIENCE).failure is None
    assert Path("published/texts/a.txt").read_text() == "1"


def test_what_fails_stays_with_all_behind_it(spool, monkeypatch):
    put(spool, "first", a="1")
    put(spool, "second", b="1")
    put(spool, "third", c="1")
    real = spooling.open_repository

    class Failing:
        def __init__(self, *args, **options):
            self.repository = real(*args, **options)

        def commit(self, files, message):
            if message == "second":
                raise ServerError("away")
            return self.repository.commit(files, message)

    with monkeypatch.context() as patched:
        patched.setattr(spooling, "open_repository", Failing)
        flushed = spool.flush(PATIENCE)
    assert str(flushed.failure) == "away"
    assert len(flushed.sent) == 1
    assert [item.message for item in spool.items()] == ["second", "third"]
    assert len(spool.flush(PATIENCE).sent) == 2
    assert messages() == ["first", "second", "third"]


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "null",
        "[" * 100_000,
        '{"repository": "published", "message": "m"}',
        '{"repository": "published", "message": "m", "paths": ["../../item.json"]}',
        '{"repository": "published", "message": "m", "paths": ["gone.txt"]}',
        '{"repository": "ssh://x/y", "message": "m", "paths": ["texts/a.txt"]}',
        '{"repository": "bundled", "message": "m", "paths": ["texts/a.txt"]}',
    ],
    ids=range(8),
)
def test_what_can_never_be_sent_holds_nothing_up(spool, damage):
    stuck = put(spool, "stuck", a="1")
    (spool.folder / stuck / "item.json").write_text(damage)
    later = put(spool, "later", b="1")
    assert waiting_spools()[0].folder == spool.folder
    flushed = spool.flush(PATIENCE)
    assert flushed.failure is None
    assert list(flushed.sent) == [later]
    [line] = flushed.refusals()
    assert line.startswith("never to be sent (")
    assert line.endswith(f": remove {spool.folder / stuck} to give it up")
    assert len(line) <= 1000
    assert messages() == ["later"]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_a_server_refuses_holds_nothing_up(oxen_server, monkeypatch, status):
    monkeypatch.setattr(sending, "_TRIES", 2)

    def fault(request: Request) -> object:
        return b"number 1" in request.body and request.answer(status, {"status_message": "no"})

    with serving(fault, upstream=oxen_server.host) as server:
        url = f"http://{server.host}/refusing/texts-{status}"
        spool = spool_for(url)
        for n in range(3):
            Path("source").write_text(f"number {n}")
            spool.put(url, {f"{n}.txt": Path("source")}, f"text {n}")
        flushed = spool.flush(PATIENCE)
        held = {entry.path for entry in open_repository(url, PATIENCE).entries(head(url))}
    assert flushed.failure is None
    assert len(flushed.sent) == 2
    assert held == {"0.txt", "2.txt"}
    [item] = spool.items()
    [line] = flushed.refusals()
    assert line.startswith(f"never to be sent ({url}: ")
    assert line.endswith(f"no): remove {item.folder} to give it up")
    again = spool.flush(PATIENCE.model_copy(update={"connect_seconds": 0.2}))
    assert str(again.failure).startswith(f"{url}: the server refuses connections")


def head(url: str) -> str:
    return open_repository(url, PATIENCE).resolve("main")


@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_what_is_about_the_server_holds_all_up(status):
    with serving(lambda request: request.answer(status)) as server:
        spool = spool_for(server.url)
        for n in range(2):
            Path("source").write_text(f"number {n}")
            spool.put(server.url, {f"{n}.txt": Path("source")}, f"text {n}")
        flushed = spool.flush(PATIENCE)
        assert len(server.seen) == 1
    assert flushed.failure is not None
    assert not flushed.refused
    assert len(spool.items()) == 2


def test_a_path_that_leads_out_is_refused(spool):
    with pytest.raises(RepositoryError):
        spool.put("r", {"../outside": Path("params.yaml")}, "out")
    assert not spool.folder.exists()


def test_a_full_disk_leaves_nothing(spool, monkeypatch):
    kept = put(spool, "kept", a="1")
    real = shutil.copyfileobj

    def full(reader, writer, length):
        real(reader, writer, length)
        if reader.name.endswith("c.source"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left") as raised:
        put(spool, "too much", b="1", c="1")
    assert str(spool.folder) in str(raised.value.filename)
    assert [item.folder.name for item in spool.items()] == [kept]
    assert sorted(path.name for path in spool.folder.iterdir()) == [".lock", kept]


def test_kill_9_leaves_whole_items_or_nothing(project, tmp_path):
    """And what a killed process left half-written is removed by the next."""
    from pipeline.files import sha256

    spool = spool_for("r")
    before = 0
    for delay in (0.002, 0.011, 0.023):
        process = subprocess.Popen(
            [sys.executable, "-c", PUT, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(Path(spooling.__file__).parents[2])},
        )
        while len(spool.items()) <= before and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for item in spool.items():
            number = int(item.message.split()[1])
            assert len(item.files) == 2
            for path in item.files.values():
                assert path.read_bytes() == bytes([number]) * 200_000, sha256(path)
        before = len(spool.items())
    assert before > 0
    put(spool, "next", a="1")
    assert not list(spool.folder.glob(".*.partial"))
