"""The Python packages that run this, by the lock that names their versions."""

import re
import sysconfig
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import sha256

LOCK = Path(__file__).parents[1] / "requirements.lock"
# Extra -> the module that it brings, imported only where it is asked for.
MODULES = {"mauve": "mauve", "lm-eval": "lm_eval", "ray": "ray"}


def lock_sha256(lock: Path = LOCK) -> str | None:
    """SHA-256 of the lock; None where there is none, or an installed package has another version.

    Which build it is, as 2.13.0+cpu is one of 2.13.0, the lock leaves open.
    """
    if not lock.is_file():
        return None
    locked = versions_in(lock)
    # Not all of sys.path: once imported, setuptools has put the packages there that it brings.
    places = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    for each in distributions(path=places):
        allowed = locked.get(normalized(each.name))
        if allowed and each.version.partition("+")[0] not in allowed:
            return None
    return sha256(lock)


def versions_in(lock: Path) -> dict[str, set[str]]:
    """The version of each package by its normalized name, several where platforms differ."""
    versions: dict[str, set[str]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([\w.-]+)==([^ ;]+)", line):
            versions.setdefault(normalized(found[1]), set()).add(found[2])
    return versions


def normalized(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_extra(extra: str, asked: str) -> None:
    """Check that the packages of an extra are here, for what `asked` for them.

    Raises:
        PipelineError: they are not.
    """
    if find_spec(MODULES[extra]) is None:
        raise PipelineError(
            f"{asked}: the package {MODULES[extra]} is not installed, which is an extra: "
            f"`python install.py {extra}` in the project's folder installs it"
        )
