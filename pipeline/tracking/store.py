"""Where MLflow's runs live, and a client for it that fails soon and says why."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import unquote

from pipeline import files
from pipeline.errors import PipelineError
from pipeline.files import store, whole

LOCAL = "local"
SQLITE = "sqlite:///"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
# Whoever sets these variables wins. MLflow's own are 120 s and 8 tries: minutes on a dead address.
FIRST_REQUEST = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
LATER_REQUESTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
# MLflow phones home, and prints links with the password of the URI in them.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}

_USERINFO = re.compile(r"""://[^\s"'<>]*@""")
_QUERY = re.compile(r"""(?i)([?&][^=&\s]*(?:passw|token|secret|key)[^=&\s]*=)[^&\s"'<>]+""")


def redact(text: str) -> str:
    """`text` with the user, password or token in any URI of it replaced by ***."""
    return _QUERY.sub(r"\1***", _USERINFO.sub("://***@", text))


def tracking_uri(setting: str) -> str:
    """MLflow's URI for `tracking.uri`: MLFLOW_TRACKING_URI wins, `local` is SQLite in the store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or setting
    return local_uri() if uri == LOCAL else uri


def local_uri() -> str:
    """MLflow's URI of the database that all experiments of this project share."""
    return _sqlite_uri(_home() / "mlflow.db")


def artifact_root(uri: str) -> str | None:
    """Where a database's artifacts go; None where a server decides.

    MLflow would take ./mlruns, which in a queued DVC experiment is a folder soon thrown away.
    """
    return (_home() / "artifacts").as_uri() if _is_database(uri) else None


def database_missing(uri: str) -> bool:
    """True for a SQLite file that nothing has created yet."""
    return uri.startswith(SQLITE) and not _database(uri).exists()


def locked() -> AbstractContextManager[None]:
    """Hold the lock that all processes of this project's store take to write runs."""
    return files.locked(_home())


def create_database(uri: str) -> None:
    """Make the SQLite file of `uri` with MLflow's tables, whole from its first moment.

    Killed within its migrations, MLflow leaves a file that it cannot open again. Needs `locked`.
    """
    if not database_missing(uri):
        return
    path = _database(uri)
    for left_over in path.parent.glob(f".{path.name}.*.partial*"):
        left_over.unlink()
    os.environ.update(QUIET)
    with _errors_of(uri), whole(path) as partial, _fast_sqlite():
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        # A line for each of MLflow's sixty migrations tells a user nothing.
        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        made = SqlAlchemyStore(_sqlite_uri(partial), artifact_root(uri))  # type: ignore[no-untyped-call]
        made.engine.dispose()


@contextmanager
def connected(uri: str) -> Iterator[Any]:
    """An `MlflowClient` for `uri`, after one short request to see that something answers.

    Raises:
        PipelineError: nothing answers, or MLflow refused what was asked of it within the block.
    """
    os.environ.update(QUIET)
    with _errors_of(uri):
        from mlflow import MlflowClient

        if _is_database(uri):
            _open_once(uri)
        with _environment(FIRST_REQUEST):
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
        with _environment(LATER_REQUESTS):
            yield client


def _home() -> Path:
    return store() / "mlflow"


@contextmanager
def _fast_sqlite() -> Iterator[None]:
    """Without an fsync after each statement: `whole` makes one at the end."""
    from sqlalchemy import Engine, event

    def relax(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relax)
    try:
        yield
    finally:
        event.remove(Engine, "connect", relax)


def _is_database(uri: str) -> bool:
    return uri.partition(":")[0].partition("+")[0] in DATABASES


def _sqlite_uri(path: Path) -> str:
    # SQLAlchemy decodes %xx and ends the path at a question mark.
    return SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


def _database(uri: str) -> Path:
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def _open_once(uri: str) -> None:
    """Raise at once where MLflow would try for 100 s."""
    from sqlalchemy import create_engine

    engine = create_engine(uri)
    engine.connect().close()
    engine.dispose()


@contextmanager
def _environment(defaults: dict[str, str]) -> Iterator[None]:
    """MLflow reads its limits from the environment at each request."""
    unset = defaults.keys() - os.environ.keys()
    os.environ.update({key: defaults[key] for key in unset})
    try:
        yield
    finally:
        for key in unset:
            del os.environ[key]


@contextmanager
def _errors_of(uri: str) -> Iterator[None]:
    """Say what went wrong with `uri` in one message that holds no password."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, ImportError) as error:
        cause = shorten(redact(str(error)), 400, placeholder=" …").rstrip(".")
        from_environment = os.environ.get("MLFLOW_TRACKING_URI")
        origin = "MLFLOW_TRACKING_URI" if from_environment else "tracking.uri in params.yaml"
        # Without the cause: a traceback of it would show the password.
        raise PipelineError(
            f"MLflow at {redact(uri)} cannot be used: {cause}. "
            f"The address comes from {origin}; start that server, or set tracking.uri or "
            f"MLFLOW_TRACKING_URI to another ({LOCAL} needs none)"
        ) from None
