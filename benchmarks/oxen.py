"""Fetching from a real Oxen server, beside Oxen's own client and a plain copy."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.machine import Machine
from benchmarks.measure import Facts, Side, Step, interleaved
from benchmarks.oxen_server import OxenServer, find_server
from benchmarks.rows import Check, Plan, Row, at_least, rate
from pipeline.config.data import Patience
from pipeline.oxen.opening import open_repository

PATIENCE = Patience(connect_seconds=10, stall_seconds=60, retries=4)
PIECE = 10**6
PEAK_MB = 500.0
NAMES = {"oxen_fetch_one": 1, "oxen_fetch_many": 1000}
"""Row -> files that its bytes are spread over."""


def _into_a_folder(work: Callable[[Path], object]) -> Step:
    """The step of doing `work` into a new folder, whose removal is not timed."""

    def run() -> Facts:
        folder = Path(tempfile.mkdtemp())
        try:
            started = time.perf_counter()
            work(folder / "out")
            return {"seconds": time.perf_counter() - started}
        finally:
            shutil.rmtree(folder)

    return run


def ours(host: str, name: str) -> Step:
    """The product's fetch of every file, each checked."""
    repository = open_repository(f"http://{host}/bench/{name}", PATIENCE)

    def work(folder: Path) -> None:
        commit = repository.resolve("main")
        files = {entry.path: entry.path for entry in repository.entries(commit)}
        repository.fetch(commit, files, folder)

    return _into_a_folder(work)


def plain(host: str, name: str) -> Step:
    """The Oxen client's clone."""
    with tempfile.TemporaryDirectory() as config:
        os.environ["OXEN_CONFIG_DIR"] = config
        import oxen

        oxen.user.config_user("bench", "bench@example.org")

    def work(folder: Path) -> None:
        oxen.clone(f"bench/{name}", path=str(folder), host=host, scheme="http")

    return _into_a_folder(work)


def copy(folder: str) -> Step:
    """A copy of the files on this disk."""
    return _into_a_folder(lambda target: shutil.copytree(folder, target))


def write_files(folder: Path, size: int, num_files: int) -> dict[str, Path]:
    """Random bytes in files of the same size: path in the repository -> file."""
    files = {f"data/{number:04}.bin": folder / f"{number:04}.bin" for number in range(num_files)}
    for source in files.values():
        with source.open("wb") as file:
            left = size // num_files
            while left > 0:
                left -= file.write(os.urandom(min(PIECE, left)))
    return files


def oxen_fetch(plan: Plan, machine: Machine) -> list[Row]:
    """The rows of NAMES."""
    binary = find_server()
    if binary is None:
        return [Row(name, "MB/s", notes=("not run: no oxen-server",)) for name in NAMES]
    size = 100 * PIECE if plan.quick else 1000 * PIECE
    with tempfile.TemporaryDirectory() as folder:
        server = OxenServer(binary, Path(folder) / "server")
        try:
            return [
                _row(name, server, Path(folder) / name, size, num_files, plan, machine)
                for name, num_files in NAMES.items()
            ]
        finally:
            server.kill()


def _row(
    name: str,
    server: OxenServer,
    folder: Path,
    size: int,
    num_files: int,
    plan: Plan,
    machine: Machine,
) -> Row:
    num_files = min(num_files, size // PIECE)
    folder.mkdir()
    files = write_files(folder, size, num_files)
    started = time.perf_counter()
    open_repository(server.url("bench", name), PATIENCE, create=True).commit(files, "bench")
    sent = size / (time.perf_counter() - started) / 1e6
    settings = {"host": server.host, "name": name}
    sides = {
        "plain": Side("benchmarks.oxen:plain", settings),
        "ours": Side("benchmarks.oxen:ours", settings),
        "copy": Side("benchmarks.oxen:copy", {"folder": str(folder)}),
    }
    found = interleaved(sides, plan.runs(3, 1), warm_up=False, on_run=plan.on_run)
    shutil.rmtree(folder)
    client, fetched = found["plain"], found["ours"]
    copied = size / 1e6 / statistics.median(found["copy"].seconds)
    return Row(
        name,
        "MB/s",
        (
            at_least(client.median / fetched.median, 1),
            Check(f"peak under {PEAK_MB:g} MB", fetched.peak_mb < PEAK_MB),
        ),
        ours=rate(fetched, size / 1e6, machine),
        plain=rate(client, size / 1e6, machine),
        notes=(
            f"{size / 1e6:,.0f} MB in {num_files:,} file{'s' * (num_files > 1)}, "
            "against the client's clone",
            f"a plain copy {copied:,.0f} MB/s, sending by our commit {sent:,.0f} MB/s",
        ),
    )
