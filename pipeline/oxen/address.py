"""The one string that names a repository, and what can be wrong with it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pipeline.errors import RepositoryError
from pipeline.files import from_root

ALLOWED = "https://HOST/NAMESPACE/NAME, the path of a local Oxen repository, or bundled"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\]")
# The server's own rules.
_NAMESPACE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{1,49}")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


@dataclass(frozen=True)
class Address:
    """A repository on a server.

    Attributes:
        scheme: http or https.
        host: in lower case, with its port where that is not the scheme's own.
        namespace, name: of the repository on it.
    """

    scheme: str
    host: str
    namespace: str
    name: str

    @property
    def server(self) -> str:
        """Where the server itself is."""
        return f"{self.scheme}://{self.host}"

    def __str__(self) -> str:
        return f"{self.server}/{self.namespace}/{self.name}"


def parse_repo(repo: str) -> Address | Path | Literal["bundled"]:
    """What `data.repo`, `publish.repo` or the source of `sedd import` names.

    Relative paths hang off the project.

    Raises:
        RepositoryError: it cannot name a repository; the text never holds a password or token.
    """
    if repo == "bundled":
        return "bundled"
    scheme, colon, rest = repo.partition("://")
    authority = re.split(r"[/?#]", rest if colon else repo, maxsplit=1)[0]
    if "@" in authority and (colon or ":" in authority):
        host = authority.rpartition("@")[2]
        raise RepositoryError(
            f"a name or token before @{host} is refused, as parameters are kept and shared: "
            f"leave it out, and give the token to sedd login {host}"
        )
    if not colon:
        if re.match(r"https?:|[a-zA-Z0-9.-]+:[0-9]+(/|$)|hub\.oxen\.ai(/|$)", repo, re.IGNORECASE):
            raise RepositoryError(f"an address starts with http:// or https:// (got {repo})")
        return from_root(repo)
    if scheme.lower() not in _DEFAULT_PORTS:
        raise RepositoryError(f"no repository can be at {scheme}://…: give {ALLOWED}")
    if re.search(r"[?#]", rest):
        raise RepositoryError(
            f"an address ends with the repository's name, without ? or # "
            f"(got {re.split('[?#]', repo, maxsplit=1)[0]}…)"
        )
    return _address(repo)


def parse_host(text: str) -> str:
    """The host that its token is kept under, of itself or of any address on it.

    Raises:
        RepositoryError: it is none; the text never holds a password or token.
    """
    scheme, colon, rest = text.partition("://")
    authority = re.split(r"[/?#]", rest if colon else text, maxsplit=1)[0]
    if "@" in authority:
        raise RepositoryError("give the host alone: a name or token before @ is refused")
    if not colon:
        scheme = "http" if authority.endswith(":80") else "https"
    if scheme.lower() not in _DEFAULT_PORTS:
        raise RepositoryError(f"no Oxen server can be at {scheme}://…: give HOST or https://HOST")
    return _host(f"{scheme.lower()}://{authority}", text)


def _host(url: str, text: str) -> str:
    """The host of a URL, with its port where that is not the scheme's own."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RepositoryError(f"no address of a repository: {error} (got {text})") from None
    host = parts.netloc.lower().removesuffix(f":{port}")
    if port == 0 or not _HOST.fullmatch(host):
        raise RepositoryError(f"no host is called {parts.netloc or 'nothing'} (got {text})")
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        host = f"{host}:{port}"
    return host


def _address(repo: str) -> Address:
    host, parts = _host(repo, repo), urlsplit(repo)
    names = parts.path.removeprefix("/").removesuffix("/").split("/")
    if len(names) > 2:
        raise RepositoryError(
            f"an address ends with the repository's name (got {repo}): "
            f"did you mean {parts.scheme}://{parts.netloc}/{'/'.join(names[:2])}?"
        )
    if len(names) < 2:
        raise RepositoryError(f"an address is https://HOST/NAMESPACE/NAME (got {repo})")
    for name, rule in zip(names, (_NAMESPACE, _NAME), strict=True):
        if not rule.fullmatch(name):
            raise RepositoryError(f"a name must match {rule.pattern} (got {name!r} in {repo})")
    return Address(parts.scheme, host, *names)
