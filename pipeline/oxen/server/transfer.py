"""Files of a commit from a server: several at once, each checked, and whole or not there."""

import glob
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue

import xxhash

from pipeline.files import whole
from pipeline.oxen.folders import is_whole
from pipeline.oxen.repository import Entry
from pipeline.oxen.server.connection import MANY, Declined, PassingFault, Server
from pipeline.progress import progress

PIECE = 1 << 20
"""Bytes of a file held at once; a fetch holds little more than `MANY` such pieces."""


ATTENTION_SECONDS = 0.2
"""Of a wait: one without a limit may miss a Ctrl-C that came just before it."""


class _Stopped(Exception):
    """Another transfer has failed."""


def fetch_files(server: Server, files: Mapping[str, Entry], folder: Path) -> None:
    """Write files below `folder`, but those that are there already.

    Args:
        files: the server's path of a file -> what the server states of it.
    Raises:
        ServerError: one could not be had, or is not what the server states.
    """
    missing = {
        source: entry
        for source, entry in files.items()
        if not is_whole(folder / entry.path, entry.size, entry.hash)
    }
    total = sum(entry.size for entry in missing.values())
    if total > (free := shutil.disk_usage(folder.parent).free):
        raise server.error(f"{total:,} bytes are to be fetched, and {folder} has {free:,} left")
    lock, stop = threading.Lock(), threading.Event()
    with progress(total=total, desc="fetch", unit="B", delay=1) as bar:

        def came(count: int) -> None:
            if stop.is_set():
                raise _Stopped
            with lock:
                bar.update(count)

        def pause(seconds: float) -> None:
            if stop.wait(seconds):
                raise _Stopped

        def fetch(source: str) -> None:
            entry = missing[source]
            path = folder / entry.path
            try:
                server.tried(lambda: _fetch(server, source, entry, path, came), pause)
            except Declined as declined:
                raise server.error(f"{entry.path} was listed, but is gone: {declined}") from None

        _at_once(fetch, list(missing), stop)


def _fetch(
    server: Server, source: str, entry: Entry, path: Path, came: Callable[[int], None]
) -> None:
    """One try at one file; `came` is called with the bytes that came, or came in vain."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        left.unlink()
    received, digest = 0, xxhash.xxh3_128()
    try:
        with whole(path) as partial, partial.open("wb") as file:
            with server.opened("GET", source, size=entry.size) as response:
                for piece in server.pieces(response, PIECE):
                    file.write(piece)
                    digest.update(piece)
                    received += len(piece)
                    came(len(piece))
                    if received > entry.size:
                        break
            got = f"{digest.intdigest():x}"
            if (received, got) != (entry.size, entry.hash):
                raise server.error(
                    f"the server sends other bytes of {entry.path} than it states: "
                    f"{received:,} of hash {got}, not {entry.size:,} of hash {entry.hash}"
                )
    except PassingFault:
        came(-received)
        raise


def _at_once(work: Callable[[str], None], items: list[str], stop: threading.Event) -> None:
    """Work through `items` in `MANY` threads; the first error stops them all and is raised.

    They are daemons: a process that is interrupted does not wait for a silent server.
    """
    todo: SimpleQueue[str] = SimpleQueue()
    ended: SimpleQueue[Exception | None] = SimpleQueue()
    for item in items:
        todo.put(item)

    def loop() -> None:
        while not stop.is_set():
            try:
                work(todo.get_nowait())
            except Empty:
                return
            except Exception as error:  # Whatever it is, it is raised where the work was asked for.
                ended.put(error)
            else:
                ended.put(None)

    threads = [threading.Thread(target=loop, daemon=True) for _ in items[:MANY]]
    for thread in threads:
        thread.start()
    try:
        failed = next((error for _ in items if (error := _next(ended)) is not None), None)
    finally:
        stop.set()
    for thread in threads:
        thread.join()
    if failed is not None:
        raise failed


def _next(ended: SimpleQueue[Exception | None]) -> Exception | None:
    """What the next work that ends leaves."""
    while True:
        try:
            return ended.get(timeout=ATTENTION_SECONDS)
        except Empty:
            continue
