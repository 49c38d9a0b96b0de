"""What makes two experiments the same one: the key of an MLflow run and of a publication."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.methods import SECTIONS
from pipeline.config.params import Params
from pipeline.errors import DataError
from pipeline.files import sha256

# They say where and how often work is written down, and what else is measured, not what comes out.
OPERATIONAL = (
    "device",
    "resources",
    "oxen",
    "data.max_overlap",
    "train.checkpoint_every",
    "baseline.checkpoint_every",
    "score.mauve_seeds",
    "zero_shot",
    "report",
    "tracking",
    "publish",
)
TEMPERATURE = "temperature-"


@dataclass(frozen=True)
class GitState:
    """The code that ran. `commit` and `branch` are None outside git or before the first commit."""

    commit: str | None
    dirty: bool
    branch: str | None


def method_in_use(params: Params) -> dict[str, Any]:
    """The method, and its section without the variants that are not in use."""
    values = params.of_method.model_dump()
    chosen = [value for value in values.values() if isinstance(value, str)]
    section = {
        key: value
        for key, value in values.items()
        if not isinstance(value, Mapping) or key in chosen
    }
    return {"method": params.method, SECTIONS[params.method]: section}


def result_params(params: Params) -> dict[str, Any]:
    """Leaves of params.yaml that decide results, by dotted key; `sweep` stays a list."""
    others = params.model_dump(exclude=set(SECTIONS.values()))
    in_use = others | method_in_use(params)
    return {key: value for key, value in leaves(in_use) if not _operational(key)}


def operational_params(params: Params) -> dict[str, Any]:
    """The other leaves: they may change without making another experiment."""
    return {key: value for key, value in leaves(params.model_dump()) if _operational(key)}


def swept(params: Params) -> list[str]:
    """What the samples of the sweeps are called: by their step count, or their temperature."""
    return [*map(str, params.sweep), *(f"{TEMPERATURE}{value}" for value in params.temperatures)]


def sample_paths(artifacts: Path, params: Params) -> list[Path]:
    """Sample files of an experiment, fewest steps first, then by temperature.

    Where `steps` is in `sweep` too, both files are the same samples: they count once.
    """
    swept_to = artifacts / "sweep"
    folders = dict.fromkeys(params.sweep, swept_to) | {params.steps: artifacts}
    by_steps = [folders[n] / "samples" / f"{n}.jsonl" for n in sorted(folders)]
    names = (f"{TEMPERATURE}{value}.jsonl" for value in sorted(params.temperatures))
    return [*by_steps, *(swept_to / "samples" / name for name in names)]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex.

    Raises:
        DataError: the file is missing.
    """
    try:
        return sha256(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run dvc repro") from None


def experiment_id(params: Params, checkpoint_sha256: str, samples: list[Path]) -> str:
    """SHA-256 in hex over the samples' names and bytes, the checkpoint and the result parameters.

    The order of `samples`, and a path given twice, make no difference.

    Raises:
        DataError: a sample file is missing.
    """
    content = {
        "params": result_params(params),
        "checkpoint": checkpoint_sha256,
        "samples": {path.name: file_sha256(path) for path in samples},
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def git_state() -> GitState:
    """State of the working folder's git tree.

    Untracked files, params.yaml and dvc.lock do not make it dirty: they are recorded on their own.
    """
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!params.yaml", ":!dvc.lock"
    )
    return GitState(
        commit=_git("rev-parse", "--verify", "--quiet", "HEAD") or None,
        dirty=bool(changed),
        branch=_git("symbolic-ref", "--short", "--quiet", "HEAD") or None,
    )


def dvc_experiment() -> tuple[str | None, str | None]:
    """Name and baseline commit of the DVC experiment that runs this, None under `dvc repro`."""
    return os.environ.get("DVC_EXP_NAME") or None, os.environ.get("DVC_EXP_BASELINE_REV") or None


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of all that is no section."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _operational(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in OPERATIONAL)


def _git(*args: str) -> str:
    """Standard output of a git command, empty when it fails or there is no git."""
    # Without optional locks: an editor's or DVC's git may be at work in the same tree.
    command = ["git", "--no-optional-locks", *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
