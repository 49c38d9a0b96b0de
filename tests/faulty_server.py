"""An Oxen server that misbehaves as it is told to: a tiny repository, or a real server's proxy."""

import copy
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import xxhash

COMMIT = "ab" * 16
CONTENT = bytes(range(256)) * 8192
"""Of the only file, big.bin: 2 MiB."""
HASH = f"{xxhash.xxh3_128(CONTENT).intdigest():x}"
_LISTED = {"filename": "big.bin", "size": len(CONTENT), "hash": HASH, "metadata": None}
ANSWERS: dict[str, Any] = {
    "/branches": {"branches": [{"name": "main", "commit_id": COMMIT}]},
    f"/commits/{COMMIT}": {"commit": {"id": COMMIT}},
    f"/dir/{COMMIT}/": {"total_pages": 1, "entries": [{**_LISTED, "is_dir": False}]},
}
"""Path below the repository's -> JSON."""


class Request(BaseHTTPRequestHandler):
    """One request, and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Else a body waits 40 ms for its head's receipt.
    server: "FaultyServer"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(copy.copy(self))  # One handler serves a whole connection.
        if not self.server.fault(self):
            self.serve()

    do_GET = do_PUT = do_POST = do_DELETE = _serve

    def serve(self) -> bool:
        """As a sound server would."""
        if self.server.upstream is not None:
            return self.send(*self.forwarded())
        below = self.path.split("?")[0].removeprefix("/api/repos/ns/name")
        if below == f"/file/{COMMIT}/big.bin":
            return self.send(200, CONTENT)
        answer = ANSWERS.get(below)
        return self.answer(404 if answer is None else 200, answer or {"status": "error"})

    def forwarded(self) -> tuple[int, bytes]:
        """Status and body of the real server's answer."""
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        headers = {key: value for key, value in self.headers.items() if key != "Host"}
        connection.request(self.command, self.path, self.body, headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def answer(self, status: int, value: Any = None, **headers: str) -> bool:
        """Send JSON."""
        return self.send(status, json.dumps(value).encode(), **headers)

    def send(self, status: int, body: bytes, *, length: int | None = None, **headers: str) -> bool:
        """Send a body, stated to be `length` bytes where that is not the truth."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        return True

    def cut(self) -> bool:
        """Break the connection off."""
        self.close_connection = True
        return True

    def stall(self) -> bool:
        """Keep the connection, silently, until the server ends."""
        self.server.ended.wait(60)
        return self.cut()

    def log_message(self, *_: object) -> None:
        pass


Fault = Callable[[Request], object]
"""Answers a request and returns True, or leaves it to the sound server."""


class FaultyServer(ThreadingHTTPServer):
    """Serves until `serving` ends.

    Attributes:
        seen: the requests so far.
        upstream: host and port of the server whose proxy this is.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, fault: Fault, upstream: str | None) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.fault, self.upstream = fault, upstream
        self.seen: list[Request] = []
        self.ended = threading.Event()

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        """What `data.repo` calls its repository."""
        return f"http://{self.host}/ns/name"


@contextmanager
def serving(fault: Fault = lambda _: False, upstream: str | None = None) -> Iterator[FaultyServer]:
    """A server with a fault, in threads of this process."""
    server = FaultyServer(fault, upstream)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def asking_for(token: str) -> Fault:
    """The fault of a server that knows one token."""

    def fault(request: Request) -> bool:
        if request.headers.get("Authorization") == f"Bearer {token}":
            return False
        return request.answer(401, {"status_message": "unauthorized"})

    return fault
