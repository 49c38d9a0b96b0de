"""`sedd login`: give Oxen's own store the token for a host."""

import sys
from typing import Annotated

import typer

from pipeline.errors import PipelineError, reported
from pipeline.table import shown


@reported
def login(
    host: Annotated[str, typer.Argument(help="Such as hub.oxen.ai, or an address on it.")],
    token: Annotated[str | None, typer.Argument(hidden=True, metavar="")] = None,
) -> None:
    """Keep the token for a host of Oxen repositories, asked for or read from standard input."""
    from pipeline.oxen.address import parse_host
    from pipeline.oxen.credentials import keep_token

    if token is not None:
        raise PipelineError(
            "a token as an argument stays in the shell's history, so it was not kept: make "
            "another, and give it when asked, or on standard input"
        )
    host = parse_host(host)
    path = keep_token(host, _asked_for(host))
    print(shown(f"the token for {host} is kept in {path}"))


def _asked_for(host: str) -> str:
    """The token that the user types or pipes.

    Raises:
        PipelineError: it cannot be one; the text does not show it.
    """
    from pipeline.oxen.credentials import LONGEST, is_token

    if sys.stdin.isatty():
        token = _typed(f"Token for {host}: ")
    else:
        token = sys.stdin.buffer.readline(LONGEST + 2).decode("ascii", "replace").rstrip("\r\n")
    if not token:
        raise PipelineError(f"no token was given for {host}: nothing is kept")
    if not is_token(token):
        raise PipelineError(
            f"no token for {host}: it is one word of ASCII letters, digits and signs, without "
            f"spaces, of {LONGEST} at most; nothing is kept"
        )
    return token


def _typed(prompt: str) -> str:
    import getpass
    import warnings

    with warnings.catch_warnings():
        # Else it would go on, and show what is typed.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(prompt)
        except EOFError:
            return ""
        except getpass.GetPassWarning:
            raise PipelineError("this terminal cannot hide a token: pipe it instead") from None
