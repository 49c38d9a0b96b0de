"""What `sedd doctor` looks at on this machine, one function for each line."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pipeline.cli.project import check_python
from pipeline.config.params import Params, load_params
from pipeline.errors import ParamsError, PipelineError
from pipeline.files import store

LITTLE, TOO_LITTLE = 5e9, 1e9
"""Free bytes below which a warning is due, and below which training would soon fail."""


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        mark: FAIL where the pipeline cannot run.
        text: what is there, and what to do when it is not right.
    """

    mark: Literal["ok", "warn", "FAIL"]
    text: str


def found(check: Callable[[], Finding]) -> Finding:
    """What a check finds; an error that it raises is a FAIL."""
    try:
        return check()
    except PipelineError as error:
        return Finding("FAIL", str(error))


def python() -> Finding:
    """This Python, and that DVC will start it too."""
    check_python()
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("ok", f"{version} in {sys.prefix}, and `python` on PATH is this one")


def torch() -> Finding:
    """That torch can be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("FAIL", f"torch cannot be imported ({error}): pip install -e . again")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Finding("ok", f"{torch.__version__} ({built}, {torch.get_num_threads()} threads)")


def device(params: Params) -> Finding:
    """That the device of params.yaml is there, and that what training needs of it works."""
    from pipeline.device import check_device, device_label

    return Finding("ok", f"{params.device}: {device_label(check_device(params))}")


def flash_attn() -> Finding:
    """Whether the optional kernels are here."""
    return Finding("ok", _version("flash-attn") or "not installed, not needed")


def dvc() -> Finding:
    """That DVC is here, and this folder is of a repository of its."""
    installed, here = _version("dvc"), Path.cwd()
    if installed is None:
        return Finding("FAIL", "not installed: pip install -e . again")
    if not (here / "dvc.yaml").is_file():
        return Finding("FAIL", f"{installed}, but {here} has no dvc.yaml: restore it with git")
    if not any((folder / ".dvc").is_dir() for folder in (here, *here.parents)):
        return Finding("FAIL", f"{installed}, but no repository of DVC: git init, then dvc init")
    return Finding("ok", f"{installed}, repository in {here}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_params() -> Params | str:
    """The project's parameters, or every mistake in them."""
    try:
        return load_params()
    except ParamsError as error:
        return "; ".join(str(error).splitlines())


def spool() -> Finding:
    """What waits to be sent."""
    from pipeline.publishing.spool import waiting_spools

    waiting = {spool.repository: len(spool.items()) for spool in waiting_spools()}
    if not waiting:
        return Finding("ok", "nothing waits to be sent")
    counts = ", ".join(f"{count} for {repository}" for repository, count in waiting.items())
    return Finding("warn", f"commits wait: {counts}: `sedd publish --flush` sends them")


def scorer(params: Params) -> Finding:
    """That the scorer is here, or could be fetched."""
    name = params.score.scorer
    if name == "baseline":
        return Finding("ok", "baseline, which the pipeline trains itself")
    from pipeline.evaluation.scorer import HUB, check_scorer, model_folder

    if name not in HUB:
        return Finding("ok", str(model_folder(name)))
    check_scorer(name, params.score.scorer_revision)
    return _cached(name, params.score.scorer_revision)


def _cached(name: str, commit: str | None) -> Finding:
    from huggingface_hub import constants, try_to_load_from_cache

    needed = ("config.json", "model.safetensors", "tokenizer.json")
    cached = [try_to_load_from_cache(name, file, revision=commit) for file in needed]
    if all(isinstance(file, str) for file in cached):
        return Finding("ok", f"{name}, in the cache of this machine")
    if constants.HF_HUB_OFFLINE:
        return Finding(
            "FAIL", f"{name} is not on this machine, and HF_HUB_OFFLINE is set: use baseline"
        )
    return Finding(
        "warn", f"{name} is not on this machine: scoring will fetch it from the Hugging Face hub"
    )


def disk() -> Finding:
    """Free space where the project's files go."""
    place = next(folder for folder in (store(), *store().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:,.1f} GB free at {place}"
    if free < TOO_LITTLE:
        return Finding("FAIL", f"{text}: free some; `sedd clean` and `dvc gc -w` list what can go")
    if free < LITTLE:
        return Finding("warn", f"{text}: `sedd clean` and `dvc gc -w` free some")
    return Finding("ok", text)
