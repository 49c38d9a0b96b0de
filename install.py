"""Install the project, editable, at the versions of requirements.lock: `python install.py dev`.

Into the environment that runs this, with the extras that are named. uv does it, in a quarter of
pip's time, from where pip is told to take packages; where uv cannot, pip does. The lock constrains
both: PyTorch without CUDA, which is version 2.13.0+cpu, fits it and brings no library of a GPU.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping

LOCK = "requirements.lock"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
# pip's setting -> uv's option.
SOURCES = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
}
OTHERS = {"constraint": "--constraint", "trusted-host": "--allow-insecure-host"}


def main(extras: list[str]) -> int:
    """Exit status of what installed."""
    project = f".[{','.join(extras)}]" if extras else "."
    what = ["--quiet", "--constraint", LOCK, "--editable", project]
    if _run([*PIP, "install", "--quiet", "--constraint", LOCK, "uv"]) == 0:
        settings = pip_settings()
        # As pip does: where Python may write none itself, as in many containers, each start of it
        # would compile for seconds.
        options = ["--compile-bytecode", *uv_options(settings)]
        command = [sys.executable, "-m", "uv", "pip", "install", *options, *what]
        if _run(command, uv_environment(settings)) == 0:
            return 0
    print("uv cannot install here (see above): pip does, which takes longer", file=sys.stderr)
    return _run([*PIP, "install", *what])


def pip_settings() -> dict[str, str]:
    """What pip is told by its files and its environment, by the long option's name."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True)
    return settings_of(listed.stdout)


def settings_of(listed: str) -> dict[str, str]:
    """The settings that hold for `pip install`, of what `pip config list` prints."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in sections:
            sections[section][key] = ast.literal_eval(value)
    # The later one wins.
    return sections["global"] | sections["install"] | sections[":env:"]


def uv_options(settings: Mapping[str, str]) -> list[str]:
    """The same settings as options of uv, which reads none of pip's.

    As with pip the best version of all sources wins. Where pip is told of none, PyTorch is the
    build for this machine's GPU, or for none, from PyTorch's own index.
    """
    options = ["--index-strategy", "unsafe-best-match"]
    for key, option in (SOURCES | OTHERS).items():
        for value in settings.get(key, "").split():
            options += [option, value]
    if not SOURCES.keys() & settings.keys() and "UV_TORCH_BACKEND" not in os.environ:
        options += ["--torch-backend", "auto"]
    return options


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Where uv installs, and with pip's certificates; what uv is told itself wins."""
    certificates = {"SSL_CERT_FILE": settings["cert"]} if "cert" in settings else {}
    return {**certificates, **os.environ, "VIRTUAL_ENV": sys.prefix}


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> int:
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
