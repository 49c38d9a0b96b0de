"""A real Oxen server on 127.0.0.1, for benchmarks and tests."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared" / "tools" / "oxen-server"
FIRST_START_SECONDS = 60
"""The very first start unpacks it."""


def find_server() -> str | None:
    """The program: $OXEN_SERVER, else on PATH, else the one that lies beside the project."""
    beside = str(SHARED) if SHARED.is_file() else None
    return os.environ.get("OXEN_SERVER") or shutil.which("oxen-server") or beside


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class OxenServer:
    """A server process; its repositories and its port stay when it is killed and restarted.

    Attributes:
        port: where it listens.
    """

    def __init__(self, binary: str, folder: Path) -> None:
        """Start it; its data, configuration and log lie in `folder`."""
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

    def get(self, path: str) -> Any:
        """The JSON answer to a GET below /api."""
        with urllib.request.urlopen(f"http://{self.host}/api{path}", timeout=10) as answer:
            return json.load(answer)

    def restart(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it ended, or does not answer.
        """
        folders = {"SYNC_DIR": self._folder / "data", "OXEN_CONFIG_DIR": self._folder / "config"}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [self._binary, "start", "-i", "127.0.0.1", "-p", str(self.port)],
                env={**os.environ, **{key: str(folder) for key, folder in folders.items()}},
                stdout=output,
                stderr=output,
                cwd=self._folder,
            )
        deadline = time.monotonic() + FIRST_START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self.get("/health")
                return
            except OSError:
                time.sleep(0.05)
        self.kill()
        raise RuntimeError(f"oxen-server does not answer: {log.read_text(errors='replace')}")

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()
