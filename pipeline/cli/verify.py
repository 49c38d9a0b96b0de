"""`sedd verify`: this machine's numbers against those of the paper's code."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli import options
from pipeline.errors import PipelineError, reported
from pipeline.table import shown


@reported
def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A published checkpoint with its golden.npz.")
    ],
    device: options.Device = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--dtype", help="What weights are cast to.")
    ] = "float32",
    attention: Annotated[
        Literal["sdpa", "flash"],
        typer.Option("--attention", help="PyTorch's kernels, or flash-attn's (CUDA, bfloat16)."),
    ] = "sdpa",
) -> None:
    """Recompute what the paper's code computed, and print how far off it is.

    For trust in a new GPU, PyTorch or flash-attn. Exits with 1 where an array is past its
    tolerance, which holds for each batch row, relative to the row's largest entry.
    """
    device = options.pick_device_name(device)
    import torch

    from pipeline.checkpoints.reference.fixture import read_fixture
    from pipeline.checkpoints.reference.verify import format_errors
    from pipeline.checkpoints.reference.verify import verify as errors_of
    from pipeline.device import device_label, pick_device

    where = pick_device(device)
    errors = errors_of(read_fixture(folder), where, getattr(torch, dtype), attention)
    how = f"{dtype}, attention {attention}, torch {torch.__version__}"
    print(shown(f"{folder} on {device_label(where)}: {how}"))
    print(format_errors(errors))
    past = [error.name for error in errors if not error.within]
    if past:
        raise PipelineError(f"past the tolerance: {', '.join(past)}")
