"""What Oxen's own store says of the user: the token for a host, and who commits are by."""

import errno
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.errors import RepositoryError
from pipeline.files import whole

OURS = ("text-diffusion-pipeline", "pipeline@localhost")
"""Name and e-mail address of commits where the user has configured none."""
LONGEST = 4096
"""Characters of a token."""
_TOKENS = "auth_config.toml"
_PRIVATE = 0o600


def config_folder() -> Path:
    """Oxen's own: OXEN_CONFIG_DIR, else ~/.config/oxen."""
    return Path(os.environ.get("OXEN_CONFIG_DIR") or "~/.config/oxen").expanduser()


def token_for(host: str) -> str | None:
    """The token that Oxen holds for a host, which is written with its port.

    Raises:
        RepositoryError: the store is damaged.
    """
    for known in _read(_TOKENS, "sedd login HOST").get("host_configs", []):
        if known.get("host") == host:
            token = known.get("auth_token")
            if token and not is_token(token):
                raise _damaged(_TOKENS, f"sedd login {host}")
            return token or None
    return None


def is_token(token: object) -> bool:
    """Whether it can be sent: one word of ASCII letters, digits and signs."""
    return (
        isinstance(token, str)
        and re.fullmatch("[!-~]+", token) is not None
        and len(token) <= LONGEST
    )


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
    from tomlkit.exceptions import TOMLKitError

    try:
        # As Oxen's own client begins one.
        document: Any = tomlkit.parse(_text(_TOKENS) or 'default_host = "hub.oxen.ai"\n')
    except (TOMLKitError, UnicodeDecodeError):
        raise _damaged(_TOKENS, "sedd login HOST") from None
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
    user = _read("user_config.toml", "oxen config")
    return (str(user["name"]), str(user["email"])) if {"name", "email"} <= user.keys() else OURS


def _read(name: str, remedy: str) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(name))
    # Its own message quotes the text, which may hold a token.
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
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
