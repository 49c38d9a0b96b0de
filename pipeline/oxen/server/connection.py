"""HTTP to one Oxen server: every wait has an end, and every fault a message."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse

from pipeline.config.data import Patience
from pipeline.errors import RefusedError, ServerError
from pipeline.oxen.credentials import token_for
from pipeline.oxen.server.sockets import BOUND, MOST_BYTES, TOO_LARGE, Bound, pools
from pipeline.table import shown

T = TypeVar("T")
MANY = 4
"""Transfers at once."""
PART = 8
"""Characters of a token that are not shown either."""
LONGEST_WAIT = 30.0
"""Seconds between two tries at most."""
SLOWEST = 4096
"""Bytes a second of a file, on the whole."""
PASSING = (408, 425, 429)
"""Of a client's faults, those that are over in a moment."""


class PassingFault(Exception):
    """What may be over in a moment: a connection that fails, an answer of PASSING or 5xx."""


class Declined(Exception):
    """The server answers 404, 409 or 422; what that means, the asker knows."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def waits(retries: int) -> list[float]:
    """Seconds before each further try: 0.5, 1, 2 and so on, 30 at most."""
    return [min(0.5 * 2**number, LONGEST_WAIT) for number in range(retries)]


class Server:
    """An Oxen server and the token that Oxen's store holds for it. Threads may share one.

    Attributes:
        host: with its port where that is not the scheme's own.
        called: what messages start with, its address where nothing else was given.
        patience: patience with it.
    """

    def __init__(self, scheme: str, host: str, patience: Patience, *, called: str = "") -> None:
        """Contacts nothing."""
        self.host, self.patience = host, patience
        self._url = f"{scheme}://{host}"
        self.called = called or self._url
        self._pool = self._manager(scheme)
        self._pool.pool_classes_by_scheme = pools(patience.stall_seconds)

    def _manager(self, scheme: str) -> urllib3.PoolManager:
        patience = self.patience
        timeout = urllib3.Timeout(connect=patience.connect_seconds, read=patience.stall_seconds)
        proxy = getproxies().get(scheme)
        if not proxy or proxy_bypass(self.host):
            return urllib3.PoolManager(timeout=timeout, maxsize=MANY)
        auth = urllib3.util.parse_url(proxy).auth
        headers = urllib3.make_headers(proxy_basic_auth=unquote(auth)) if auth else None
        return urllib3.ProxyManager(proxy, proxy_headers=headers, timeout=timeout, maxsize=MANY)

    def error(self, text: str) -> ServerError:
        """An error about this server, to be raised."""
        return ServerError(f"{self.called}: {text}")

    def no_answer(self) -> ServerError:
        """The error that what came is none of an Oxen server's answers, to be raised."""
        return self.error("the answer is no Oxen server's: check the address")

    def tried(self, action: Callable[[], T], pause: Callable[[float], object] = time.sleep) -> T:
        """What `action` returns, tried again after growing waits while its fault may pass.

        Raises:
            ServerError: it has failed `oxen.retries` times more, or for good.
        """
        for wait in waits(self.patience.retries):
            try:
                return action()
            except PassingFault as fault:
                line = shown(f"{self.called}: {fault}: again in {wait:g} s")
                print(line, file=sys.stderr, flush=True)
            pause(wait)
        try:
            return action()
        except PassingFault as fault:
            raise self.error(f"{fault} (after {self.patience.retries} oxen.retries)") from None

    def ask(self, method: str, path: str, read: Callable[[Any], T], body: Any = None) -> T:
        """What `read` takes from the JSON answer to a request with a JSON body, or with none.

        Raises:
            Declined: the status is 404, 409 or 422.
            ServerError: the server is away, refuses, or is no Oxen server.
        """
        data = None if body is None else json.dumps(body).encode()
        kind = None if body is None else "application/json"
        return self.tried(lambda: self.send(method, path, read, data, kind))

    def send(
        self, method: str, path: str, read: Callable[[Any], T], body: Any, kind: str | None
    ) -> T:
        """The same for a body of any kind, once.

        Raises:
            PassingFault: it may be tried again.
        """
        headers = {"Content-Type": kind} if kind else {}
        if isinstance(body, BytesIO):  # urllib3 sends it piece by piece, each with its own patience
            headers["Content-Length"] = str(body.getbuffer().nbytes)
        with self.opened(method, path, body, headers) as response, self._faults():
            data = response.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise self.error(TOO_LARGE)
        try:
            return read(_parsed(data, token_for(self.host)))
        except (ValueError, TypeError):
            raise self.no_answer() from None

    @contextmanager
    def opened(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        size: int = 0,
    ) -> Iterator[BaseHTTPResponse]:
        """The answer to one request, its body, a file of `size` bytes, to be read; see `send`."""
        # Looked up at each request: it may have been given since.
        token = token_for(self.host)
        auth = {"Authorization": f"Bearer {token}"} if token else {}
        # A chunk of a byte takes six.
        num_bytes, seconds = MOST_BYTES + 8 * size, 2 * self.patience.stall_seconds + size / SLOWEST
        BOUND.set(Bound(self.error, num_bytes, seconds))
        with self._faults():
            response = self._pool.urlopen(
                method, f"{self._url}/api{path}", body=body, headers={**(headers or {}), **auth},
                preload_content=False, redirect=False, retries=False,
            )  # fmt: skip
        try:
            if response.status >= 300:
                self._refuse(response, token)
            yield response
        finally:
            response.close()  # One that is read to its end has let its connection go.

    def pieces(self, response: BaseHTTPResponse, size: int) -> Iterator[bytes]:
        """The body of an answer, `size` bytes at a time."""
        with self._faults():
            yield from response.stream(size, decode_content=False)

    def _refuse(self, response: BaseHTTPResponse, token: str | None) -> None:
        """Raise what the status means."""
        status, login = response.status, f"sedd login {self.host}"
        with self._faults():
            words = _words(response.read(1 << 16), token)
        if status == 401:
            raise self.error(f"the server wants a token it knows: {login}")
        if status == 403:
            raise self.error(
                f"this account may not do that (403{words}): ask its owner, or {login}"
            )
        if status in (404, 409, 422):
            raise Declined(status, words.strip())
        if status in PASSING or status >= 500:
            raise PassingFault(f"the server answers {status}{words}")
        if status < 400:
            with self._faults():
                target = urllib3.util.parse_url(response.headers.get("Location", ""))
            where = f"{target.scheme}://{target.netloc}" if target.host else "elsewhere"
            where = _hidden(where, token) if token else where
            raise self.error(f"the server sends on to {where}, where no token follows: name that")
        kind = ServerError if status == 407 else RefusedError
        raise kind(f"{self.called}: the server answers {status}{words}")

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Name what goes wrong below HTTP; a timeout is final, as it has taken long enough."""
        patience = self.patience
        try:
            yield
        except NameResolutionError:
            raise self.error(
                "no such host is known here: check its name, and the network"
            ) from None
        except NewConnectionError:  # For urllib3 a kind of the next.
            raise PassingFault("the server refuses connections: does it run?") from None
        except ConnectTimeoutError:
            raise self.error(
                f"no connection within {patience.connect_seconds:g} s (oxen.connect_seconds)"
            ) from None
        except SSLError as error:
            raise self.error(
                f"no safe connection: {error} (SSL_CERT_FILE may name certificates)"
            ) from None
        except ProxyError:
            raise self.error(
                "the proxy is of no use: see http_proxy, https_proxy, no_proxy"
            ) from None
        except (ReadTimeoutError, ProtocolError) as error:
            if isinstance(error, ReadTimeoutError) or isinstance(error.args[-1], TimeoutError):
                raise self.error(
                    f"no byte has moved for {patience.stall_seconds:g} s (oxen.stall_seconds)"
                ) from None
            raise PassingFault("the connection breaks off") from None
        except (HTTPError, ValueError, OverflowError) as error:  # A chunk of -5 bytes.
            raise self.error(f"no HTTP that can be read: {type(error).__name__}") from None


def _parsed(body: bytes, token: str | None) -> Any:
    """JSON without the token, which is taken out before anything is read of it, or cut.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(body)
        if token is None:
            return value
        # As text, in which strings are found however they were escaped.
        escaped = json.dumps(token)[1:-1]
        return json.loads(_hidden(json.dumps(value, ensure_ascii=False), escaped))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _hidden(text: str, token: str) -> str:
    """`text` without the token, and without any `PART` characters of it."""
    text = text.replace(token, "…")
    for start in range(len(token) - PART + 1):
        text = text.replace(token[start : start + PART], "…")
    return text


def _words(body: bytes, token: str | None) -> str:
    """What the server says is wrong, as ` text`; nothing where it says nothing."""
    try:
        answer = _parsed(body, token)
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return ""
    error = answer.get("error")
    said = error.get("detail") or error.get("title") if isinstance(error, dict) else None
    text = said or answer.get("status_description") or answer.get("status_message") or ""
    return f" {str(text)[:200]}" if text else ""
