"""The shipped project and a tiny version of its parameters, for tests that run real stages."""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.data import Patience

PROJECT = Path(__file__).parents[1]
PATIENCE = Patience(connect_seconds=5, stall_seconds=30, retries=1)  # of machines that are busy
TINY = {
    "device": "cpu",
    "model.width": 16,
    "model.num_blocks": 1,
    "model.num_heads": 2,
    "model.cond_dim": 8,
    "train.num_steps": 40,
    "train.batch_size": 16,
    "train.warmup_steps": 5,
    "train.eval_every": 20,
    "train.eval_blocks": 32,
    "train.sample_every": 20,
    "train.sample_num": 2,
    "train.sample_steps": 4,
    "train.checkpoint_every": 4,
    "baseline.width": 16,
    "baseline.num_blocks": 1,
    "baseline.num_heads": 2,
    "baseline.num_tokens": 5120,
    "baseline.batch_size": 16,
    "baseline.warmup_steps": 5,
    "baseline.eval_every": 10,
    "baseline.eval_blocks": 32,
    "sample.num": 16,
    "sample.num_traced": 2,
    "score.num_bootstrap": 20,
    "score.num_real_draws": 2,
    "report.num_samples": 4,
}


def shipped_params() -> dict[str, Any]:
    """params.yaml of the project, as plain values."""
    values: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text())
    return values


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with leaves replaced by dotted key."""
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[leaf] = value
    return values


def write_params(folder: Path, changes: dict[str, Any]) -> None:
    """params.yaml in `folder`: the project's, with leaves replaced."""
    (folder / "params.yaml").write_text(yaml.safe_dump(changed(shipped_params(), changes)))


def set_params(changes: dict[str, Any]) -> None:
    """Replace leaves of the working folder's params.yaml."""
    path = Path("params.yaml")
    path.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), changes)))


def readme_blocks() -> list[list[str]]:
    """Lines of each of the README's sh blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    lines = [[line.split("  #")[0].strip() for line in block.splitlines()] for block in blocks]
    return [[line for line in block if line] for block in lines]


def stage_command(name: str, *arguments: object) -> list[str]:
    """The command of a stage, under this Python."""
    return [sys.executable, "-m", f"stages.{name}", *map(str, arguments)]
