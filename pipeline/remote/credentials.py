"""What Oxen's own store says of the user: the token for a host, and who commits are by."""

import os
import tomllib
from pathlib import Path
from typing import Any

from pipeline.errors import RepositoryError

OURS = ("text-diffusion-pipeline", "pipeline@localhost")
"""Name and e-mail address of commits where the user has configured none."""


def config_folder() -> Path:
    """Oxen's own: OXEN_CONFIG_DIR, else ~/.config/oxen."""
    return Path(os.environ.get("OXEN_CONFIG_DIR") or "~/.config/oxen").expanduser()


def token_for(host: str) -> str | None:
    """The token that Oxen holds for a host, which is written with its port.

    Raises:
        RepositoryError: the store is damaged.
    """
    for known in _read("auth_config.toml", "sedd login HOST").get("host_configs", []):
        if known.get("host") == host:
            token = known.get("auth_token")
            return str(token) if token else None
    return None


def author() -> tuple[str, str]:
    """Name and e-mail address: the user's own configuration where there is one, else ours.

    Raises:
        RepositoryError: the configuration is damaged.
    """
    user = _read("user_config.toml", "oxen config")
    return (str(user["name"]), str(user["email"])) if {"name", "email"} <= user.keys() else OURS


def _read(name: str, remedy: str) -> dict[str, Any]:
    path = config_folder() / name
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RepositoryError(f"{path}: {error.strerror}") from None
    # Its own message quotes the text, which may hold a token.
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise RepositoryError(f"{path} is damaged: remove it and run {remedy}") from None
