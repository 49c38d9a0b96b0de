"""Which device a model runs on, and what to say when its memory is not enough."""

from collections.abc import Iterator
from contextlib import contextmanager

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


def device_label(device: torch.device) -> str:
    """What provenance records: `cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def memory_for(parameter: str) -> Iterator[None]:
    """Turn running out of memory into a message that names the parameter or option to lower."""
    where = "" if parameter.startswith("--") else " in params.yaml"
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        of_memory = not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError)
        if not of_memory and "can't allocate memory" not in str(error):
            raise
        raise PipelineError(f"out of memory: lower {parameter}{where} ({error})") from error
