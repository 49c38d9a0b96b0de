"""Real Oxen servers as fixtures; skipped with the reason where there is none."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.oxen_server import SHARED, OxenServer, find_server


def _started(folder: Path) -> Iterator[OxenServer]:
    binary = find_server()
    if binary is None:
        pytest.skip(f"no oxen-server: not in $OXEN_SERVER, on PATH, nor at {SHARED}")
    server = OxenServer(binary, folder)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def oxen_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OxenServer]:
    """A server that all tests share: take repositories of your own, and never kill it."""
    yield from _started(tmp_path_factory.mktemp("oxen_server"))


@pytest.fixture
def own_oxen_server(tmp_path: Path) -> Iterator[OxenServer]:
    """A test's own server, to kill and restart."""
    yield from _started(tmp_path / "own_oxen_server")
