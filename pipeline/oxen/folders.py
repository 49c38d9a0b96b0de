"""Folders that appear whole or not at all, and what their files are."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import xxhash

from pipeline.errors import RepositoryError


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
