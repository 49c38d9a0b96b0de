"""Folders that appear whole or not at all, and what their files are."""

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import xxhash

from pipeline.errors import RepositoryError
from pipeline.files import is_gone


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to it on success.

    What killed processes left beside it is removed: call it under a lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def resumed_in_place_of(path: Path) -> Iterator[Path]:
    """A folder beside `path` that takes its place on success, and stays as it is on failure.

    What a killed or failed process left in it is there again; call it under a lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    for left in path.parent.glob(f"{glob.escape(partial.name)}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    finally:
        if partial.is_dir() and not any(partial.iterdir()):
            partial.rmdir()


@contextmanager
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """A temporary folder, on the disk of the folder `beside` when given, gone afterwards.

    What killed processes left there goes too. Oxen's threads may still write into a database that
    lies there: removing it is tried again.
    """
    beside = beside or Path(tempfile.gettempdir(), "text-diffusion")
    for left in beside.parent.glob(f"{glob.escape(beside.name)}.*.*.partial"):
        if is_gone(left.name.split(".")[-3]):
            shutil.rmtree(left, ignore_errors=True)
    prefix = f"{beside.name}.{os.getpid()}."
    folder = Path(tempfile.mkdtemp(dir=beside.parent, prefix=prefix, suffix=".partial"))
    try:
        yield folder
    finally:
        for _ in range(50):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.05)
        else:
            shutil.rmtree(folder)


def oxen_hash(path: Path) -> str:
    """Oxen's name of a file's content: its xxh3-128 in hex without leading zeros."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return f"{digest.intdigest():x}"


def is_whole(path: Path, size: int, content: str) -> bool:
    """Whether a file of so many bytes, whose `oxen_hash` is `content`, is there."""
    return path.is_file() and path.stat().st_size == size and oxen_hash(path) == content


def inside(path: str) -> str:
    """A file's path within a repository, as the repository itself would write it.

    Raises:
        RepositoryError: it is absolute, empty, or leads out.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise RepositoryError(f"no path inside the repository (got {path})")
    return pure.as_posix()
