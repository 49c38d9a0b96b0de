"""Sockets that wait no longer, and read no more, than one request may take."""

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPResponse
from io import BufferedReader, RawIOBase
from socket import SOCK_STREAM, getaddrinfo
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pipeline.errors import ServerError

MOST_BYTES = 2**24
"""Of an answer that is no file, unpacked."""
TOO_LARGE = f"the answer is larger than {MOST_BYTES:,} bytes"


@dataclass
class Bound:
    """What an answer may take; `error` makes the error of one that takes more."""

    error: Callable[[str], ServerError]
    num_bytes: int
    seconds: float


BOUND: ContextVar[Bound] = ContextVar("BOUND")
"""Of the answer to the request that this thread makes."""


class _Bounded(RawIOBase):
    """What comes from a socket, chunks' sizes and heads of an answer too, within its bound."""

    def __init__(self, socket: RawIOBase) -> None:
        self._socket, self._bound, self._num_bytes = socket, BOUND.get(), 0
        self._until = time.monotonic() + self._bound.seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._until:
            raise self._bound.error(
                f"it does not come to an end within {self._bound.seconds:g} s "
                "(oxen.stall_seconds, twice, and more for a large file)"
            )
        count: int | None = self._socket.readinto(buffer)
        self._num_bytes += count or 0
        if self._num_bytes > self._bound.num_bytes:
            raise self._bound.error(TOO_LARGE)
        return count

    def close(self) -> None:
        self._socket.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fp = BufferedReader(_Bounded(self.fp.detach()))


def pools(seconds: float) -> dict[str, type[HTTPConnectionPool]]:
    """Connections that share connecting's seconds among a host's addresses, and send patiently.

    urllib3 would wait as long for each address, and as short for the server to take bytes.
    """

    class Plain(HTTPConnection):
        response_class = _Response

        def connect(self) -> None:
            _share_timeout(self)
            super().connect()
            self.sock.settimeout(seconds)

    class Secure(Plain, HTTPSConnection):
        """Connects as an HTTPSConnection in between."""

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _share_timeout(connection: HTTPConnection) -> None:
    try:
        addresses = getaddrinfo(connection.host.strip("[]"), connection.port, type=SOCK_STREAM)
    except OSError:
        return  # Connecting says so.
    if isinstance(connection.timeout, int | float):
        connection.timeout /= len(addresses)
