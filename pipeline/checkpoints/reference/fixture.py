"""Fixtures of the paper's reference code: a checkpoint, and in golden.npz what it computes."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from pipeline.checkpoints.reference.reading import Published, read_published
from pipeline.errors import DataError
from pipeline.methods.sedd.model import SEDDConfig

GOLDEN = "golden.npz"
INPUTS = ("t", "x0", "x_t", "step_size")
COMPUTED = (
    "sigma",
    "dsigma",
    "log_score",
    "score_entropy",
    "loss",
    "euler_probs",
    "analytic_probs",
    "denoise_probs",
)
Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Fixture:
    """A published checkpoint, and the arrays of INPUTS and COMPUTED as the reference has them."""

    published: Published
    arrays: dict[str, Tensor]


def read_fixture(folder: Path) -> Fixture:
    """Read and check a fixture folder.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or does not fit its config.
        DataError: golden.npz is missing, damaged, or holds other arrays than it should.
    """
    if not folder.is_dir():
        raise DataError(f"no fixture: there is no folder {folder}")
    path = folder / GOLDEN
    if not path.is_file():
        raise DataError(f"no fixture in {folder}: {GOLDEN} is missing")
    published = read_published(folder)
    arrays = _read_arrays(path)
    mistakes = _wrong_forms(arrays, published.config) or _wrong_values(arrays, published.config)
    if mistakes:
        raise DataError(f"{path}: {'; '.join(mistakes)}")
    return Fixture(published, {name: torch.from_numpy(array) for name, array in arrays.items()})


def _read_arrays(path: Path) -> Arrays:
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is one array, not an archive of arrays")
            _check_names(path, stored.files)
            return {name: np.asarray(stored[name]) for name in stored.files}
    except (OSError, EOFError, ValueError, RuntimeError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _check_names(path: Path, found: list[str]) -> None:
    expected = INPUTS + COMPUTED
    mistakes = [f"{name} is missing" for name in expected if name not in found]
    mistakes += [f"{name} is unexpected" for name in found if name not in expected]
    if mistakes:
        raise DataError(f"{path}: {'; '.join(mistakes)}")


def _wrong_forms(arrays: Arrays, config: SEDDConfig) -> list[str]:
    """Arrays whose shape or dtype is not what the model and the shape of x0 ask for."""
    if arrays["x0"].ndim != 2 or not arrays["x0"].size:
        return [f"x0 has shape {list(arrays['x0'].shape)}, expected [B, L]"]
    rows, positions = arrays["x0"].shape
    states = (rows, positions, _num_states(config))
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("t", "sigma", "dsigma", "loss"), (rows,)),
        **dict.fromkeys(("x0", "x_t", "score_entropy"), (rows, positions)),
        **dict.fromkeys(("log_score", "euler_probs", "analytic_probs"), states),
        "denoise_probs": (rows, positions, config.vocab_size),
        "step_size": (),
    }
    dtypes: dict[str, tuple[str, ...]] = dict.fromkeys(shapes, ("float32",))
    dtypes |= {"x0": ("int64",), "x_t": ("int64",), "step_size": ("float32", "float64")}
    return [
        f"{name} is {array.dtype} {list(array.shape)}, expected {' or '.join(dtypes[name])} "
        f"{list(shapes[name])}"
        for name, array in arrays.items()
        if array.shape != shapes[name] or str(array.dtype) not in dtypes[name]
    ]


def _wrong_values(arrays: Arrays, config: SEDDConfig) -> list[str]:
    """Inputs that a model of these sizes cannot be asked about."""
    t, step_size = arrays["t"], arrays["step_size"]
    mistakes = []
    if arrays["x0"].shape[1] > config.length:
        mistakes.append(
            f"x0 has {arrays['x0'].shape[1]} positions, the model at most {config.length}"
        )
    for name, size in (("x0", config.vocab_size), ("x_t", _num_states(config))):
        if arrays[name].min() < 0 or arrays[name].max() >= size:
            mistakes.append(f"{name} must lie in 0..{size - 1}")
    if not ((t > 0) & (t <= 1)).all():
        mistakes.append("t must lie in (0, 1]")
    elif not 0 < step_size <= t.min():
        mistakes.append(f"step_size must be above 0 and at most {t.min():g} (got {step_size:g})")
    return mistakes


def _num_states(config: SEDDConfig) -> int:
    return config.vocab_size + (config.graph == "absorb")
