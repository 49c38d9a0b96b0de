"""A real Oxen server for tests: its own data, its own port on 127.0.0.1, killed and restarted."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_project import PROJECT

SHARED = PROJECT.parent / "shared" / "tools" / "oxen-server"


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class OxenServer:
    """A server process; repositories stay when it is killed and restarted, and so does its port."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        self.port = free_port()
        self.restart()

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def url(self, namespace: str, name: str) -> str:
        """What `data.repo` calls a repository on it."""
        return f"http://{self.host}/{namespace}/{name}"

    def get(self, path: str) -> dict[str, object]:
        """The JSON answer to a GET below /api."""
        with urllib.request.urlopen(f"http://{self.host}/api{path}", timeout=10) as answer:
            return json.load(answer)

    def restart(self) -> None:
        """Start it, and wait until it answers."""
        folders = {"SYNC_DIR": "data", "OXEN_CONFIG_DIR": "config"}
        for name in folders.values():
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "start", "-i", "127.0.0.1", "-p", str(self.port)],
                env={**os.environ, **{key: str(self._folder / n) for key, n in folders.items()}},
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        deadline = time.monotonic() + 60  # the first start of all unpacks it
        while True:
            try:
                self.get("/health")
                return
            except OSError:
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def _started(folder: Path) -> Iterator[OxenServer]:
    binary = os.environ.get("OXEN_SERVER") or shutil.which("oxen-server")
    if binary is None and SHARED.is_file():
        binary = str(SHARED)
    if binary is None:
        pytest.skip(f"no oxen-server: not in $OXEN_SERVER, on PATH, nor at {SHARED}")
    server = OxenServer(binary, folder)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def oxen_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OxenServer]:
    """A server that all tests share: take namespaces or names of your own, and never kill it."""
    yield from _started(tmp_path_factory.mktemp("oxen_server"))


@pytest.fixture
def own_oxen_server(tmp_path: Path) -> Iterator[OxenServer]:
    """A test's own server, to kill and restart."""
    yield from _started(tmp_path / "own_oxen_server")
