"""What Oxen's own store says of the user: the token for a host, and who commits are by."""

import errno
import os
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from pydantic import BaseModel

from pipeline.errors import RepositoryError
from pipeline.files import whole

OURS = ("text-diffusion-pipeline", "pipeline@localhost")
"""Name and e-mail address of commits where the user has configured none."""
LONGEST = 4096
"""Characters of a token."""
_TOKENS = "auth_config.toml"
_PRIVATE = 0o600


class _Host(BaseModel):
    host: str
    auth_token: str | None = None


class _Tokens(BaseModel):
    host_configs: list[_Host] = []


class _User(BaseModel):
    name: str | None = None
    email: str | None = None


M = TypeVar("M", _Tokens, _User)


def config_folder() -> Path:
    """Oxen's own: OXEN_CONFIG_DIR, else ~/.config/oxen."""
    return Path(os.environ.get("OXEN_CONFIG_DIR") or "~/.config/oxen").expanduser()


def token_for(host: str) -> str | None:
    """The token that Oxen holds for a host, which is written with its port.

    Raises:
        RepositoryError: the store is damaged.
    """
    for known in _read(_TOKENS, _Tokens, "sedd login HOST").host_configs:
        if known.host == host:
            if known.auth_token and not is_token(known.auth_token):
                raise _damaged(_TOKENS, f"sedd login {host}")
            return known.auth_token or None
    return None


def is_token(token: str) -> bool:
    """Whether it can be sent: one word of ASCII letters, digits and signs."""
    return re.fullmatch("[!-~]+", token) is not None and len(token) <= LONGEST


def keep_token(host: str, token: str) -> Path:
    """Write a host's token into Oxen's store, which only its owner may read; the rest stays.

    Returns:
        the file.
    Raises:
        RepositoryError: the store is damaged, or cannot be written.
    """
    # A link that a user has made stays one.
    path = (config_folder() / _TOKENS).resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            _read(_TOKENS, _Tokens, "sedd login HOST")
            text = _with_token(host, token)
            with whole(path) as partial:
                _write_privately(partial, text)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RepositoryError(f"{error.filename or path}: {error.strerror}") from None
    return path


def _with_token(host: str, token: str) -> str:
    """Oxen's file of tokens, with this one."""
    import tomlkit

    # As Oxen's own client begins one.
    document: Any = tomlkit.parse(_text(_TOKENS) or 'default_host = "hub.oxen.ai"\n')
    if not document.get("host_configs"):
        document["host_configs"] = tomlkit.aot()
    hosts = document["host_configs"]
    if not any(each.get("host") == host for each in hosts):
        hosts.append(tomlkit.item({"host": host}))
    for each in hosts:
        if each.get("host") == host:
            each["auth_token"] = token
    return tomlkit.dumps(document)


def _write_privately(path: Path, text: str) -> None:
    """Write a new file that nobody else can read at any moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "w") as file:
        file.write(text)


def author() -> tuple[str, str]:
    """Name and e-mail address: the user's own configuration where there is one, else ours.

    Raises:
        RepositoryError: the configuration is damaged.
    """
    user = _read("user_config.toml", _User, "oxen config")
    return OURS if user.name is None or user.email is None else (user.name, user.email)


def _read(name: str, kind: type[M], remedy: str) -> M:
    try:
        return kind.model_validate(tomllib.loads(_text(name)))
    # Its own message quotes the text, which may hold a token.
    except (ValueError, RecursionError):
        raise _damaged(name, remedy) from None


def _text(name: str) -> str:
    path = config_folder() / name
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise RepositoryError(f"{path}: {error.strerror}") from None


def _damaged(name: str, remedy: str) -> RepositoryError:
    return RepositoryError(f"{config_folder() / name} is damaged: remove it and run {remedy}")
