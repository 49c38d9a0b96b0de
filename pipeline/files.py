"""Files that appear whole or not at all, and the place that all experiments share."""

import errno
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import BusyError, DataError, PipelineError

if TYPE_CHECKING:
    import psutil
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")
PATIENCE = (5.0, 600.0)
"""Seconds that another process may hold a lock before it is told, and then before we give up."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; fsync and rename it into place on success.

    What killed processes left of theirs is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if left.is_file() and is_gone(left.name.split(".")[-2]):
            left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file, which appears whole or not at all."""
    # Not shutil.copyfile: its error names the file that was read.
    with whole(target) as partial, source.open("rb") as reader, partial.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


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


@contextmanager
def tensors_written(path: Path) -> Iterator[None]:
    """Let a full disk, of which safetensors has an error of its own, be the system's error."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


def is_gone(pid: str) -> bool:
    """Whether the process that named a file or folder after itself has ended."""
    import psutil

    return pid.isdecimal() and not psutil.pid_exists(int(pid))


def starters() -> "list[psutil.Process]":
    """The parent and its parent: DVC starts stages through a shell, and not all shells stay."""
    import psutil

    return psutil.Process().parents()[:2]


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused with ValueError."""
    with whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    with whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_as(path: Path, kind: type[M]) -> M:
    """The JSON object of a file, checked.

    Raises:
        FileNotFoundError: it is missing.
        DataError: it is damaged; a line for each mistake.
    """
    return parsed_as(kind, path.read_bytes(), str(path))


def parsed_as(kind: type[M], text: bytes, where: str) -> M:
    """The JSON object in `text`, checked.

    Raises:
        DataError: it is damaged; a line for each mistake, which begins with `where` it stands.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        lines = (
            f"{where}: {'.'.join(map(str, each['loc'])) or '(top)'}: {each['msg']}"
            for each in error.errors(include_input=False)
        )
        raise DataError(*lines) from None


def read_object(path: Path, *required: str) -> dict[str, Any]:
    """A JSON object that has the keys `required`.

    Raises:
        DataError: the file is missing, damaged, or lacks a key.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run dvc repro") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    missing = [key for key in required if not isinstance(values, dict) or key not in values]
    if missing or not isinstance(values, dict):
        raise DataError(f"{path} has no {', '.join(missing) or 'object'}: run dvc repro -f report")
    return values


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line.

    Raises:
        FileNotFoundError: it is missing.
        DataError: a line is none.
    """
    with path.open("rb") as file:
        try:
            return [json.loads(line) for line in file]
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is damaged: {error}") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_revision(folder: Path, pattern: str = "[!.]*") -> str:
    """SHA-256 over the lines "<SHA-256 of file>  <path>" of a folder's files, but hidden ones."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file())
    lines = [f"{sha256(folder / path)}  {path.as_posix()}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_revision(key: str, folder: Path, pinned: str | None) -> None:
    """Check that a folder named in params.yaml is as it was when it was pinned.

    Raises:
        PipelineError: it is not, or was never pinned, under `key`.
    """
    if pinned is None:
        raise PipelineError(f"{key}: {folder} is not pinned: `sedd pin` writes its revision")
    if (found := folder_revision(folder)) != pinned:
        raise PipelineError(
            f"{key}: the files in {folder} have changed, their revision is {found} "
            f"(got {pinned}): bring them back, or `sedd pin` takes them as they are"
        )


def with_library() -> dict[str, str]:
    """The environment, such that another process's Python finds this library."""
    places = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}


def store() -> Path:
    """The folder shared by all experiments, also by those that DVC runs in a copy of the tree."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".store"


@contextmanager
def locked(what: Path | str) -> Iterator[None]:
    """Hold the lock of a folder, or of a name that processes here agree on.

    It lies in the store, as the folder may be foreign.

    Raises:
        BusyError: another process has held it for too long.
    """
    from filelock import FileLock, Timeout

    name = str(what.resolve() if isinstance(what, Path) else what)
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    lock = FileLock(store() / "locks" / f"{key}.lock")
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    silent, most = PATIENCE
    try:
        lock.acquire(timeout=silent)
    except Timeout:
        print(f"waiting for another process that uses {what}", file=sys.stderr, flush=True)
        try:
            lock.acquire(timeout=most)
        except Timeout:
            raise BusyError(f"another process has used {what} for {most:.0f} s") from None
    try:
        yield
    finally:
        lock.release()


def from_root(path: str) -> Path:
    """Resolve a path of params.yaml: relative ones hang off the project, not the working folder."""
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    # Path.resolve ends with a RuntimeError where links lead in a circle.
    return Path(os.path.realpath(root / expanded(path)))


def check_folder(key: str, place: str | None) -> None:
    """Raise PipelineError unless a folder of params.yaml, if it names one, can be written."""
    if place is None:
        return
    folder = from_root(place)
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise PipelineError(f"{key}: {there} is no folder that can be written (got {place})")


def expanded(path: str) -> Path:
    """A path as a user types it, ~ being a home.

    Raises:
        PipelineError: it is of no user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise PipelineError(f"{path}: there is no such user's folder") from None
