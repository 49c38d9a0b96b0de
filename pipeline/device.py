"""Where and how a model runs, and what to say when a device cannot do it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch

from pipeline.errors import ParamsError, PipelineError


def pick_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ParamsError: a CUDA device is asked for that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ParamsError(
            f"device: this machine has {torch.cuda.device_count()} CUDA devices (got {name}); "
            "use auto or cpu"
        )
    return device


def check_attention(attention: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ParamsError unless `attention`, sdpa or flash, runs on `device` in `dtype`."""
    if attention != "flash":
        return
    if device.type != "cuda":
        cause = f"it runs on CUDA devices only (got {device.type})"
    elif dtype not in (torch.float16, torch.bfloat16):
        cause = f"it takes float16 or bfloat16 only (got {str(dtype).removeprefix('torch.')})"
    else:
        try:
            import_module("flash_attn")
        except ImportError as error:
            cause = f"the package flash-attn cannot be imported ({error})"
        else:
            return
    raise ParamsError(f"attention: flash cannot run, {cause}; use sdpa")


def check_compile(device: torch.device) -> None:
    """Raise ParamsError unless torch.compile has on this machine what it needs for `device`."""
    if device.type == "cpu" and not has_cpp_compiler():
        raise ParamsError(
            "train.compile: on a CPU it needs a C++ compiler, and there is no "
            f"{_cpp_compiler()} (got true); install one, name it in CXX, or use false"
        )


def has_cpp_compiler() -> bool:
    """Whether there is the compiler that torch.compile calls on a CPU."""
    return shutil.which(_cpp_compiler()) is not None


def _cpp_compiler() -> str:
    return os.environ.get("CXX", "g++")


def device_label(device: torch.device) -> str:
    """What provenance records: `cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def memory_for(parameter: str) -> Iterator[None]:
    """Turn running out of memory into a message that names the parameter or option to lower."""
    where = "" if parameter.startswith("--") else " in params.yaml"
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        raise PipelineError(f"out of memory: lower {parameter}{where} ({error})") from error


def _of_memory(error: MemoryError | RuntimeError) -> bool:
    # On a CPU torch has no kind of its own for it.
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
