"""What a user can get wrong, and the one way it is said."""

import errno
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from pipeline.table import LONGEST, shown

P = ParamSpec("P")
R = TypeVar("R")
MOST = LONGEST - 40
"""Characters of a message, but for `error:` and how many more lines there are."""


class PipelineError(Exception):
    """Something the user can put right. Its text names what, the value got and what is allowed.

    Each argument is a line; whatever others wrote may stand in it, as it is shown as one line.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ParamsError(PipelineError):
    """params.yaml cannot be used; one line for each mistake."""


class DataError(PipelineError):
    """A dataset, a document or a text cannot be used."""


class RepositoryError(PipelineError):
    """An Oxen repository, revision or file is missing or unusable."""


class ServerError(RepositoryError):
    """An Oxen server is away, or refuses; what was asked of it may be tried again later."""


class RefusedError(ServerError):
    """An Oxen server is there, and does not take what it is sent: other things it may."""


class CheckpointError(PipelineError):
    """A checkpoint is damaged, or belongs to another architecture or tokenizer."""


class BusyError(PipelineError):
    """Another process is already doing this."""


class Interrupted(PipelineError):
    """SIGTERM or SIGINT asked the work to stop; what was done so far is saved."""


def _on_stderr(kind: str, message: str) -> None:
    print("error:", message, file=sys.stderr)


tell: Callable[[str, str], None] = _on_stderr
"""Says an error, given its class and message; a process that another speaks for has its own."""


def reported(main: Callable[P, R]) -> Callable[P, R]:
    """Let `main` end a PipelineError, or what a system refuses, with one message and status 1."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        # Else notes would go to standard output.
        sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        # A terminal or a file of another encoding shows what it cannot hold as stderr does.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            Path.cwd()  # Where the working folder is gone libraries end the process.
            return main(*args, **kwargs)
        except PipelineError as error:
            kind, lines = type(error).__name__, error.args
        except KeyboardInterrupt:
            kind, lines = "Interrupted", ("interrupted",)
        except BrokenPipeError:  # Who reads the output has enough of it.
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                line = f"no disk space left while writing {error.filename or 'a file'}: free some"
            else:
                line = f"{error.filename or 'the working folder'}: {error.strerror or error}"
            kind, lines = type(error).__name__, (line,)
        tell(kind, _message(lines))
        raise SystemExit(1)

    return wrapped


def typed(command: Callable[P, R]) -> Callable[P, R]:
    """Let what is typed wrong, of which typer's `command` complains, be a PipelineError too."""
    from typer.exceptions import TyperException

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except TyperException as error:
            context = getattr(error, "ctx", None)
            see = f" (see {context.command_path} --help)" if context else ""
            raise PipelineError(f"{error.format_message()}{see}") from None

    return wrapped


def panicked(error: BaseException) -> bool:
    """Whether a library's Rust code panicked: that class, no Exception, cannot be imported."""
    return type(error).__name__ == "PanicException"


@contextmanager
def read_by_library(said: str, kind: type[PipelineError] = CheckpointError) -> Iterator[None]:
    """Let whatever a library makes of a damaged file be an error of a kind, `said` and its words.

    Libraries that look at nothing they read raise any error, and some panic.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and not panicked(error):
            raise
        words = " ".join(str(error).split())
        raise kind(f"{said}: {words or type(error).__name__}") from error


def _message(lines: Sequence[str]) -> str:
    """The first line and as many others as MOST characters hold, and how many more there are."""
    said: list[str] = []
    size = 0
    for line in (shown(line, MOST) for line in lines):
        size += len(line) + 1
        if said and size > MOST:
            said.append(f"and {len(lines) - len(said):,} more")
            break
        said.append(line)
    return "\n".join(said)
