"""Servers that are away, refuse or misbehave: what is said of each, and how long it may take."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from faulty_server import COMMIT, CONTENT, Request, asking_for, serving
from tiny_project import PROJECT

from benchmarks.oxen_server import free_port
from pipeline.config.data import Patience
from pipeline.errors import RepositoryError, ServerError
from pipeline.oxen.opening import open_repository
from pipeline.oxen.server.connection import Server, waits

PATIENCE = Patience(connect_seconds=0.5, stall_seconds=0.5, retries=2)
AWAY = sum(waits(PATIENCE.retries))
"""Seconds waited for what may pass."""
SLACK = 2.0
"""Seconds that this machine, busy with other tests, may take for the work itself."""


@contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds + SLACK


def said_by(url: str, seconds: float, *, fetch: Path | None = None) -> str:
    """The message of a ServerError that comes in time."""
    repository = open_repository(url, PATIENCE)
    call: Callable[[], object] = partial(repository.resolve, "main")
    if fetch is not None:
        call = partial(repository.fetch, COMMIT, {"data.files.train": "big.bin"}, fetch)
    with ends_within(seconds), pytest.raises(ServerError) as error:
        call()
    message = str(error.value)
    assert message.startswith(f"{url}: ")
    if fetch is not None:
        assert not any(path.is_file() for path in fetch.rglob("*"))
    return message.removeprefix(f"{url}: ")


def of_files(answer: Callable[[Request], object]) -> Callable[[Request], object]:
    """A fault of files alone."""
    return lambda request: "/file/" in request.path and answer(request)


def test_a_host_that_refuses():
    message = said_by(f"http://127.0.0.1:{free_port()}/ns/name", AWAY)
    assert message == "the server refuses connections: does it run? (after 2 oxen.retries)"


def test_a_host_of_no_name():
    message = said_by("http://no-such-host.invalid/ns/name", 0)
    assert message == "no such host is known here: check its name, and the network"


def test_a_host_that_takes_no_connection():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        queue = [socket.socket() for _ in range(3)]  # full: further ones get no answer at all
        for waiting in queue:
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        message = said_by(f"http://127.0.0.1:{deaf.getsockname()[1]}/ns/name", 0.5)
        for waiting in queue:
            waiting.close()
    assert message == "no connection within 0.5 s (oxen.connect_seconds)"


def test_a_host_that_accepts_and_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = said_by(f"http://127.0.0.1:{silent.getsockname()[1]}/ns/name", 0.5)
    assert message == "no byte has moved for 0.5 s (oxen.stall_seconds)"


def test_a_host_may_take_longer_to_answer_than_to_be_connected():
    patient = PATIENCE.model_copy(update={"connect_seconds": 0.2, "stall_seconds": 30})
    with serving(lambda _: time.sleep(0.5)) as server:
        assert open_repository(server.url, patient).resolve("main") == COMMIT


def test_a_host_that_takes_no_bytes():
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        host = f"127.0.0.1:{deaf.getsockname()[1]}"
        patient = PATIENCE.model_copy(update={"connect_seconds": 0.1})
        body = BytesIO(bytes(50 << 20))
        started = time.monotonic()
        with ends_within(0.5), pytest.raises(ServerError) as error:
            Server("http", host, patient).send("PUT", "/", dict, body, None)
        assert time.monotonic() - started > 0.5  # stalling is not connecting
    assert str(error.value).endswith("no byte has moved for 0.5 s (oxen.stall_seconds)")


def test_a_host_that_breaks_off():
    with serving(Request.cut) as server:
        message = said_by(server.url, AWAY)
        assert len(server.seen) == 3
    assert message == "the connection breaks off (after 2 oxen.retries)"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the server wants a token it knows: sedd login {host}"),
        (403, "this account may not do that (403 no): ask its owner, or sedd login {host}"),
        (418, "the server answers 418 no"),
    ],
)
def test_what_will_not_pass_is_asked_once(status, message):
    with serving(lambda request: request.answer(status, {"error": {"title": "no"}})) as server:
        assert said_by(server.url, 0) == message.format(host=server.host)
        assert len(server.seen) == 1


def test_not_found():
    with serving(lambda request: request.answer(404, {})) as server:
        with ends_within(0), pytest.raises(RepositoryError) as error:
            open_repository(server.url, PATIENCE).resolve("main")
        assert str(error.value) == (
            f"{server.url} does not exist, or this account may not see it: "
            f"check its name, or sedd login {server.host}"
        )
        assert len(server.seen) == 1


def test_500_for_good():
    with serving(lambda request: request.answer(500, {"status_message": "oh"})) as server:
        assert said_by(server.url, AWAY) == "the server answers 500 oh (after 2 oxen.retries)"
        assert len(server.seen) == 3


def test_500_twice_and_then_200(capsys):
    with serving(lambda request: len(server.seen) <= 2 and request.answer(500)) as server:
        with ends_within(AWAY):
            assert open_repository(server.url, PATIENCE).resolve("main") == COMMIT
        said = capsys.readouterr().err.splitlines()
    assert said == [f"{server.url}: the server answers 500: again in {s} s" for s in ("0.5", "1")]


def test_another_kind_of_server():
    for fault in (
        lambda request: request.send(200, b"<html>"),
        lambda request: request.answer(200, {"ok": True}),
        lambda request: request.answer(200, [1]),
    ):
        with serving(fault) as server:
            assert said_by(server.url, 0) == "the answer is no Oxen server's: check the address"


def test_half_a_file_and_then_nothing(tmp_path):
    half = CONTENT[: len(CONTENT) // 2]

    def fault(request: Request) -> object:
        return request.send(200, half, length=len(CONTENT)) and request.stall()

    with serving(of_files(fault)) as server:
        message = said_by(server.url, 0.5, fetch=tmp_path / "out")
    assert message == "no byte has moved for 0.5 s (oxen.stall_seconds)"


def test_half_a_file_always(tmp_path):
    half = CONTENT[: len(CONTENT) // 2]

    def fault(request: Request) -> object:
        return request.send(200, half, length=len(CONTENT)) and request.cut()

    with serving(of_files(fault)) as server:
        message = said_by(server.url, AWAY, fetch=tmp_path / "out")
        assert message == "the connection breaks off (after 2 oxen.retries)"


def test_half_a_file_once(tmp_path):
    half = CONTENT[: len(CONTENT) // 2]

    def fault(request: Request) -> object:
        if sum("/file/" in seen.path for seen in server.seen) > 1:
            return False
        return request.send(200, half, length=len(CONTENT)) and request.cut()

    with serving(of_files(fault)) as server, ends_within(AWAY):
        open_repository(server.url, PATIENCE).fetch(COMMIT, {"f": "big.bin"}, tmp_path)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["big.bin"]


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"!", CONTENT[:-1], CONTENT + b"!"])
def test_wrong_bytes(tmp_path, wrong):
    with serving(of_files(lambda request: request.send(200, wrong))) as server:
        message = said_by(server.url, 0, fetch=tmp_path / "out")
        assert sum("/file/" in seen.path for seen in server.seen) == 1
    assert message.startswith("the server sends other bytes of big.bin than it states: ")


def test_what_is_whole_is_not_fetched_again(tmp_path):
    with serving() as server:
        repository = open_repository(server.url, PATIENCE)
        repository.fetch(COMMIT, {"f": "big.bin"}, tmp_path)
        (tmp_path / ".big.bin.1.partial").write_text("of a killed process")
        repository.fetch(COMMIT, {"f": "big.bin"}, tmp_path)
        assert sum("/file/" in seen.path for seen in server.seen) == 1
        (tmp_path / "big.bin").write_bytes(b"?" * len(CONTENT))
        repository.fetch(COMMIT, {"f": "big.bin"}, tmp_path)
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert not (tmp_path / ".big.bin.1.partial").exists()


TOKEN = "sesame-opens-nothing"


@pytest.fixture
def knows_token(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Let Oxen's store hold the token for a host."""
    folder = tmp_path / "oxen-config"
    folder.mkdir()
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(folder))
    text = '[[host_configs]]\nhost = "{}"\nauth_token = "{}"\n'
    return lambda host: (folder / "auth_config.toml").write_text(text.format(host, TOKEN)) and None


def test_the_token_is_sent_to_its_own_host_alone(knows_token, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(asking_for(TOKEN)) as server, serving() as other:
        assert "sedd login" in said_by(server.url, 0)
        knows_token(server.host)
        assert open_repository(server.url, PATIENCE).resolve("main") == COMMIT
        assert open_repository(other.url, PATIENCE).resolve("main") == COMMIT
        assert all("Authorization" not in seen.headers for seen in other.seen)


def test_no_redirect_is_followed(knows_token):
    with serving() as other:
        there = f"http://{other.host}/elsewhere?secret"
        with serving(lambda request: request.answer(302, {}, Location=there)) as server:
            knows_token(server.host)
            message = said_by(server.url, 0)
        assert message == (
            f"the server sends on to http://{other.host}, where no token follows: name that"
        )
        assert other.seen == []


def test_a_token_that_the_server_repeats_is_not(knows_token):
    def fault(request: Request) -> object:
        return request.answer(403, {"status_message": request.headers["Authorization"]})

    with serving(fault) as server:
        knows_token(server.host)
        message = said_by(server.url, 0)
    assert "403 Bearer …" in message
    assert TOKEN not in message


@pytest.mark.parametrize(
    "body",
    [
        {"status_message": "x" * 190 + TOKEN},
        {"error": {"title": "x" * 195 + TOKEN + "y" * 100}},
        {"status_description": f"{TOKEN[:-1]}, {TOKEN[3:]}, {TOKEN.upper()}"},
        json.dumps({"status_message": TOKEN}).replace("sesame", r"\u0073esame"),
    ],
    ids=range(4),
)
def test_no_part_of_a_token_that_a_server_repeats_is_shown(knows_token, body):
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    with serving(lambda request: request.send(400, data)) as server:
        knows_token(server.host)
        message = said_by(server.url, 0)
    assert not any(TOKEN[start : start + 8] in message for start in range(len(TOKEN) - 7))


def test_a_token_is_taken_out_of_names_and_messages(knows_token):
    answers = {
        "/branches": {"branches": [{"name": f"of {TOKEN}", "commit_id": COMMIT}]},
        "/main": {"commits": [{"id": TOKEN, "message": TOKEN}]},
    }

    def fault(request: Request) -> object:
        path = request.path.split("?")[0]
        return any(path.endswith(end) and request.answer(200, answers[end]) for end in answers)

    with serving(fault) as server:
        knows_token(server.host)
        with pytest.raises(RepositoryError) as error:
            open_repository(server.url, PATIENCE).resolve("other")
    assert "of …" in str(error.value)
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize("token", ["a\\nb", "a b", "ä", "🔑", "x" * 5000], ids=range(5))
def test_a_stored_token_that_cannot_be_sent_is_damaged(tmp_path, monkeypatch, token):
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path))
    path = tmp_path / "auth_config.toml"
    with serving() as server:
        text = f'[[host_configs]]\nhost = "{server.host}"\nauth_token = "{token}"\n'
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RepositoryError) as error:
            open_repository(server.url, PATIENCE).resolve("main")
    assert str(error.value) == f"{path} is damaged: remove it and run sedd login {server.host}"


NO_ID = [None, "", "${steps}", "\x1b[2Jx", "2024-13-45", "a" * 200_000, 7, "AB" * 16, "ab" * 9]


@pytest.mark.parametrize("commit", NO_ID, ids=range(len(NO_ID)))
def test_what_is_no_commit_id_is_no_answer(commit):
    answer = {"branches": [{"name": "main", "commit_id": commit}]}
    with serving(lambda request: request.answer(200, answer)) as server:
        assert said_by(server.url, 0) == "the answer is no Oxen server's: check the address"


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff", b"null"], ids=["deep", "text", "null"])
def test_what_is_no_json_of_a_server_is_no_answer(body):
    with serving(lambda request: request.send(200, body)) as server:
        assert said_by(server.url, 0) == "the answer is no Oxen server's: check the address"


def pouring(*pieces: bytes, pause: float = 0.0) -> Callable[[Request], object]:
    """The fault of a server whose answer is the first piece, then the last one again and again."""

    def fault(request: Request) -> object:
        request.wfile.write(pieces[0])
        while not request.server.ended.wait(pause) if pause else not request.server.ended.is_set():
            request.wfile.write(pieces[-1])
        return request.cut()

    return fault


HEAD = b"HTTP/1.1 200 OK\r\n"
LARGE = "the answer is larger than 16,777,216 bytes"
ENDLESS = (
    "it does not come to an end within 1 s (oxen.stall_seconds, twice, and more for a large file)"
)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (pouring(HEAD + b"\r\n[", b" " * 65536), LARGE),
        (pouring(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 9999), LARGE),
        (pouring(b"HTTP/1.1 100 Continue\r\n\r\n" * 999), LARGE),
        (pouring(HEAD + b"\r\n[", b" ", pause=0.05), ENDLESS),
        (pouring(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.05), ENDLESS),
        (pouring(HEAD, b"A: b\r\n", pause=0.05), ENDLESS),
    ],
    ids=["body", "chunks", "continue", "slow body", "slow continue", "slow head"],
)
def test_an_answer_without_end(fault, message):
    with serving(fault) as server:
        said = said_by(server.url, 1.5)
    assert said in (message, ENDLESS)  # Whichever comes first.


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 99999999999999999999\r\n", b"[" + b" " * 9),
        (b"Transfer-Encoding: chunked\r\n", b"-5\r\nhello\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n[]"),
        (b"Content-Encoding: gzip\r\n", b"[]"),
    ],
)
@pytest.mark.parametrize("status", [b"200", b"400", b"302 x\r\nLocation: http://[::1"])
def test_http_that_is_none(monkeypatch, head, body, status):
    monkeypatch.setattr("pipeline.oxen.server.connection.LONGEST_WAIT", 0.01)

    def fault(request: Request) -> object:
        request.wfile.write(b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n" + body)
        return request.cut()

    with serving(fault) as server:
        assert said_by(server.url, AWAY)


def test_a_little_that_unpacks_to_much():
    bomb = gzip.compress(bytes(10**8))
    with serving(lambda request: request.send(200, bomb, **{"Content-Encoding": "gzip"})) as server:
        assert said_by(server.url, 1) == LARGE


def test_a_file_that_drips(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.oxen.server.connection.SLOWEST", 2**23)
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(CONTENT)
    with serving(of_files(pouring(head, b"x", pause=0.05))) as server:
        message = said_by(server.url, 2, fetch=tmp_path / "out")
    assert message.startswith("it does not come to an end within 1.25 s")


def listing(request: Request, total_pages: object = 1, **changes: object) -> object:
    """A folder with one file, or what else is asked for."""
    entry = {"filename": "a", "size": 1, "hash": "0", "metadata": None, "is_dir": False}
    answer = {"total_pages": total_pages, "entries": [entry | changes]}
    return "/dir/" in request.path and request.answer(200, answer)


def entries_of(fault: Callable[[Request], object]) -> str:
    with serving(fault) as server, ends_within(2):
        with pytest.raises(ServerError) as error:
            open_repository(server.url, PATIENCE).entries(COMMIT)
        return str(error.value).removeprefix(f"{server.url}: ")


@pytest.mark.parametrize(
    "wrong",
    [
        {"is_dir": "false"},
        {"is_dir": 0},
        {"size": -1},
        {"size": 1e999},
        {"size": "1"},
        {"filename": "a\0"},
        {"filename": "\ud800"},
        {"filename": "../a"},
        {"metadata": {"tabular": {"height": 1e999}}},
        {"metadata": 5},
        {"total_pages": None},
        {"total_pages": 1e999},
    ],
    ids=str,
)
def test_a_listing_that_is_none(wrong):
    message = entries_of(lambda request: listing(request, **wrong))
    assert message == "the answer is no Oxen server's: check the address"


def test_listings_without_end(monkeypatch):
    monkeypatch.setattr("pipeline.oxen.server.api.MOST_PAGES", 20)
    monkeypatch.setattr("pipeline.oxen.server.repository.MOST_FOLDERS", 20)
    message = entries_of(lambda request: listing(request, total_pages=10**9))
    assert message == "the folder / has more than 20 pages"
    message = entries_of(lambda request: listing(request, is_dir=True))
    assert message == "no data set has so many files, folders or levels"
    empty = {"total_pages": 10**9, "entries": []}
    with serving(lambda request: "/dir/" in request.path and request.answer(200, empty)) as server:
        assert open_repository(server.url, PATIENCE).entries(COMMIT) == []


MANY_FOLDERS = {f"{n}.txt": f"{n}/a.txt" for n in range(100)}


@pytest.mark.parametrize(
    "call",
    [
        lambda repository: repository.entries(COMMIT),
        lambda repository: repository.fetch(COMMIT, MANY_FOLDERS, Path("out")),
    ],
    ids=["entries", "fetch"],
)
def test_a_listing_that_takes_too_long(monkeypatch, call):
    """Each answer comes in time, and there is always another folder."""
    monkeypatch.setattr("pipeline.oxen.server.api.LISTING", 1)

    def fault(request: Request) -> object:
        time.sleep(0.1)
        return listing(request, is_dir=True)

    with serving(fault) as server, ends_within(0.5), pytest.raises(ServerError) as error:
        call(open_repository(server.url, PATIENCE))
    assert str(error.value).endswith(
        ": the folders cannot be listed within 0.5 s (oxen.stall_seconds, 1 times)"
    )


def test_more_bytes_than_the_disk_has_are_not_begun(tmp_path):
    with serving(lambda request: listing(request, filename="big.bin", size=2**62)) as server:
        message = said_by(server.url, 0, fetch=tmp_path / "out")
        assert not any("/file/" in seen.path for seen in server.seen)
    assert message.startswith("4,611,686,018,427,387,904 bytes are to be fetched, and ")


@pytest.mark.parametrize(
    "begun",
    [{"num_parts": 10**12, "part_size": 1}, {"num_parts": 1, "part_size": 10**18}, {}],
    ids=["parts", "size", "none"],
)
def test_an_upload_of_no_sense_is_not_begun(tmp_path, begun):
    (tmp_path / "a").write_bytes(CONTENT)

    def fault(request: Request) -> object:
        answer = {"file": "x", "upload_id": "u"} | begun
        if request.path.endswith("/uploads"):
            return request.answer(200, answer)
        return request.command != "GET" and request.answer(200, {})

    with serving(fault) as server, ends_within(0), pytest.raises(ServerError, match="no Oxen"):
        open_repository(server.url, PATIENCE).commit({"a": tmp_path / "a"}, "a")


def test_a_damaged_store_is_named_and_not_shown(knows_token, tmp_path):
    path = tmp_path / "oxen-config" / "auth_config.toml"
    path.write_text(f'auth_token = "{TOKEN}')
    with serving() as server, pytest.raises(RepositoryError) as error:
        open_repository(server.url, PATIENCE).resolve("main")
    assert str(error.value).startswith(f"{path} is damaged: remove it and run sedd login")


FETCH = f"""
import signal, sys
from pathlib import Path
from pipeline.config.data import Patience
from pipeline.oxen.opening import open_repository
# Shells let what they start in their background ignore Ctrl-C, and so what is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
patient = Patience(connect_seconds=10, stall_seconds=60, retries=4)
open_repository(sys.argv[1], patient).fetch("{COMMIT}", {{"f": "big.bin"}}, Path(sys.argv[2]))
"""


def test_ctrl_c_ends_a_fetch_at_once(tmp_path):
    with serving(of_files(Request.stall)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", FETCH, server.url, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        while not any("/file/" in seen.path for seen in server.seen):
            assert process.poll() is None
            time.sleep(0.02)
        with ends_within(0):
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
    assert said.endswith("KeyboardInterrupt\n")
