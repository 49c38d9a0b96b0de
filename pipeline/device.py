"""Where and how a model runs, and what to say when a device cannot do it."""

import ctypes
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.errors import ParamsError, PipelineError

if TYPE_CHECKING:
    from pipeline.config.params import Params, Resources
    from pipeline.kernels.precision import Precision

OUT_OF_MEMORY = (
    "can't allocate memory",  # a CPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",  # Triton
)
"""What running out of memory says where torch has no kind of its own for it."""


def pick_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`, and memory that suits it.

    Raises:
        ParamsError: a CUDA device is asked for that this machine does not have.
    """
    keep_freed_memory()
    # How many positions a step works for differs: fixed blocks of memory would be left in pieces.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # of a rank, one of several here
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        why = "this PyTorch is built for CPUs"
        if torch.version.cuda is not None:
            why = f"this PyTorch, of CUDA {torch.version.cuda}, finds no GPU or too old a driver"
        raise ParamsError(f"device: {why} (got {name}); use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ParamsError(
            f"device: this machine has {torch.cuda.device_count()} CUDA devices (got {name}); "
            "use auto or cpu"
        )
    return device


def keep_freed_memory() -> None:
    """Let the C library keep freed tensors of up to 32 MB for those that come next.

    Else glibc gives them back to the system and takes them anew, page by page: a quarter of a
    sampling step on two cores. Other C libraries, which have no `mallopt`, are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # of glibc's malloc.h
        mallopt(mmap_threshold, 2**25)
        mallopt(trim_threshold, 2**31 - 1)


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


def check_device(params: "Params") -> torch.device:
    """The device of params.yaml, if it computes all that is asked of it there.

    Raises:
        ParamsError: it is not there, or lacks a precision or compiler.
    """
    device = pick_device(params.device)
    check_ranks(params.resources, params.device)
    for section in ("train", "sample", "baseline", "evaluate", "score", "zero_shot"):
        pick_precision(getattr(params, section).precision, device, f"{section}.precision")
    if params.train.compile:
        check_compile(params.train.compile, device)
    return device


def check_ranks(resources: "Resources", name: str) -> None:
    """Raise ParamsError unless there is a device `name` for each process that this machine has."""
    num = torch.cuda.device_count()
    if pick_device(name).type == "cuda" and resources.processes > num:
        raise ParamsError(
            f"resources.processes: this machine has {num} CUDA devices (got "
            f"{resources.processes}), one for each is needed; lower it, or use device: cpu"
        )


def check_compile(compile: bool | str, device: torch.device) -> None:
    """Raise ParamsError unless `train.compile` can be had on `device`."""
    if compile == "graphs" and device.type != "cuda":
        raise ParamsError(
            f"train.compile: graphs are of CUDA devices (got graphs on {device}); use true or false"
        )
    if reason := why_not_compiled(device):
        got = str(compile).lower()
        raise ParamsError(f"train.compile: {reason} (got {got}); mend that, or use false")


def why_not_compiled(device: torch.device) -> str | None:
    """Why torch.compile cannot work here, or None."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "the package triton is not installed"
        compilers = [os.environ.get("CC"), "gcc", "clang", "cc"]
    else:
        default = "clang++" if sys.platform == "darwin" else "g++"
        compilers = [os.environ.get("CXX", default)]
    names = [name for name in compilers if name]
    if not any(shutil.which(name) for name in names):
        return f"there is no compiler ({' or '.join(names)}) in PATH"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return None if header.is_file() else f"{header} is missing: install Python's headers"


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` has instructions for matrix products in bfloat16."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(held is True and name.endswith("bf16") for name, held in capabilities.items())


def pick_precision(asked: str, device: torch.device, key: str) -> "Precision":
    """The precision of matrix products that `key` of params.yaml asks for.

    `auto` is float32 on a CPU, and bfloat16 on a GPU that has it.

    Raises:
        ParamsError: the device has no such products.
    """
    on_gpu = device.type == "cuda"
    allowed: list[Precision] = ["float32"]
    if not on_gpu or has_bfloat16(device):
        allowed.append("bfloat16")
    if on_gpu and torch.cuda.get_device_capability(device) >= (8, 0):
        allowed.append("tf32")
    if asked == "auto":
        return "bfloat16" if on_gpu and "bfloat16" in allowed else "float32"
    for precision in allowed:
        if precision == asked:
            return precision
    raise ParamsError(
        f"{key}: {device_label(device)} computes in {' or '.join(sorted(allowed))} (got {asked}); "
        "auto takes what suits it"
    )


def device_label(device: torch.device) -> str:
    """What provenance records: `cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def memory_for(parameter: str, pieces: str | None = None) -> Iterator[None]:
    """Turn running out of memory into a message that names the parameter or option to lower.

    Args:
        pieces: the parameter that computes the same in more pieces, if there is one.
    """
    where = "" if parameter.startswith("--") else " in params.yaml"
    advice = f"lower {parameter}" if pieces is None else f"raise {pieces} or lower {parameter}"
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        raise PipelineError(f"out of memory: {advice}{where} ({error})") from error


def is_of_memory(error: Exception) -> bool:
    """Whether an error says that memory has run out."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in OUT_OF_MEMORY
    )
