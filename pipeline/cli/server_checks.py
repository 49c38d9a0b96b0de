"""What `sedd doctor` asks of servers: all at once, each of which has an answer by a set time."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from pipeline.cli.checks import Finding
from pipeline.config.data import Data, Patience
from pipeline.config.params import Params
from pipeline.errors import BusyError, RepositoryError, ServerError
from pipeline.files import store
from pipeline.oxen.address import Address, parse_repo
from pipeline.oxen.fetching import recorded_files

T = TypeVar("T")
PATIENCE = 5.0
"""Seconds that one step of a request may take at most."""


def asked(question: Callable[[], T], until: float | None) -> Callable[[], T]:
    """Have a thread put a question at once; what gives the answer.

    It raises ServerError where there is none until that time of `time.monotonic` (None if one
    always comes), else what the question raised. One never answered ends with the process.
    """
    future: Future[T] = Future()

    def left() -> float | None:
        return None if until is None else max(0.0, until - time.monotonic())

    def ask() -> None:
        try:
            future.set_result(question())
        except Exception as error:  # Whatever it is, it is raised where the answer is asked for.
            future.set_exception(error)

    def answer() -> T:
        try:
            return future.result(left())
        except TimeoutError:
            raise ServerError(f"no answer within {seconds:.0f} s") from None

    seconds = left()
    threading.Thread(target=ask, daemon=True).start()
    return answer


def mlflow(params: Params, until: float) -> Callable[[], Finding]:
    """Begin to look whether runs can be tracked; a server has until then to answer."""
    from pipeline.tracking.store import (
        SQLITE,
        connected,
        database_missing,
        redact,
        tracking_uri,
    )

    uri = tracking_uri(params.tracking.uri)
    if database_missing(uri):
        return lambda: _to_be_made("the database", store() / "mlflow")

    def reach() -> None:
        with connected(uri):
            pass

    # A file answers, however slowly this machine imports MLflow.
    answer = asked(reach, None if uri.startswith(SQLITE) else until)

    def finish() -> Finding:
        try:
            answer()
        except ServerError as error:
            text = f"MLflow at {redact(uri)}: {error}: start it, or set tracking.uri to local"
            return Finding("FAIL", text)
        return Finding("ok", f"{redact(uri)} answers")

    return finish


def _to_be_made(what: str, folder: Path) -> Finding:
    """Whether something that is not there yet could be made in `folder`."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Finding("FAIL", f"{what} cannot be made in {folder}: {nearest} is not writable")
    return Finding("ok", f"{what} will be made in {folder}")


def patience(asked: Patience) -> Patience:
    """At most a few seconds for each step, and no second try."""
    return Patience(
        connect_seconds=min(asked.connect_seconds, PATIENCE),
        stall_seconds=min(asked.stall_seconds, PATIENCE),
        retries=0,
    )


def data_repo(params: Params, until: float) -> Callable[[], Finding]:
    """Begin to look whether `data.repo` has the pinned commit."""
    from pipeline.oxen.opening import open_repository

    data = params.data

    def resolve() -> str:
        return open_repository(data.repo, patience(params.oxen)).resolve(data.revision)

    answer = asked(resolve, until)

    def finish() -> Finding:
        try:
            commit = answer()
            if commit == data.revision:
                return Finding("ok", f"{data.repo} has {commit}{_token(data.repo)}")
            problem = (
                f"data.revision: {data.revision} is a branch, which moves: sedd pin {data.revision}"
            )
        except (RepositoryError, BusyError) as error:
            problem = _about(data.repo, error)
        if is_here(data):
            return Finding("warn", f"{problem} (the data is here, so it is not needed now)")
        return Finding("FAIL", problem)

    return finish


def is_here(data: Data) -> bool:
    """Whether the files of this very revision were fetched, by their sizes; hashing takes long."""
    recorded = recorded_files(Path("artifacts/provenance.json"), data)
    if recorded is None:
        return False
    files = {Path("artifacts/data", path): file.size for path, file in recorded.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in files.items())


def publish_repo(params: Params, until: float) -> Callable[[], Finding]:
    """Begin to look whether `publish.repo` can be reached; only if strict must it be."""
    from pipeline.oxen.opening import open_repository

    repo = params.publish.repo

    def reach() -> str:
        address = parse_repo(repo)
        if isinstance(address, Address):
            from pipeline.oxen.server.api import Api

            there = Api(address, patience(params.oxen)).branches() is not None
            made = "answers" if there else "does not exist: the first publish creates it"
            return f"{repo} {made}{_token(repo)}"
        open_repository(repo, params.oxen, create=True)
        return repo

    answer = asked(reach, until)

    def finish() -> Finding:
        try:
            text = answer()
        except ServerError as error:
            problem = _about(repo, error)
            if params.publish.strict:
                return Finding("FAIL", f"{problem} (publish.strict is on)")
            return Finding("warn", f"{problem} (what is published waits in .store/spool)")
        address = parse_repo(repo)
        if isinstance(address, Path) and not address.exists():
            return _to_be_made("the repository", address)
        return Finding("ok", text)

    return finish


def _about(repo: str, error: Exception) -> str:
    """The error, which names the repository once."""
    text = str(error)
    return text if text.startswith(repo.removesuffix("/")) else f"{repo}: {text}"


def _token(repo: str) -> str:
    """Whether Oxen's store has a token for the host, in words."""
    from pipeline.oxen.credentials import token_for

    address = parse_repo(repo)
    if not isinstance(address, Address):
        return ""
    if token_for(address.host):
        return f", with the token for {address.host}"
    return f", without a token (sedd login {address.host} keeps one)"
