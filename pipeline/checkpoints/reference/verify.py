"""How far this project's numbers are from those of a fixture, array by array."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.checkpoints.reference.fixture import COMPUTED, Fixture
from pipeline.checkpoints.reference.reading import build
from pipeline.checkpoints.reference.recompute import recompute
from pipeline.device import check_attention
from pipeline.kernels.attention import Attention
from pipeline.kernels.precision import products_in
from pipeline.methods.sedd.network import cast_weights
from pipeline.table import aligned

COLUMNS = ("array", "largest absolute error", "largest relative error", "tolerance", "verdict")


@dataclass(frozen=True)
class ArrayError:
    """How far one array is off.

    Attributes:
        absolute: the largest difference of any entry.
        relative: the largest of any batch row: its largest difference over its largest entry.
        tolerance: what `relative` may reach.
    """

    name: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether the array agrees; NaN never does."""
        return self.relative <= self.tolerance


def verify(
    fixture: Fixture, device: torch.device, dtype: torch.dtype, attention: Attention
) -> list[ArrayError]:
    """Recompute every array of a fixture and compare.

    Args:
        fixture: what the reference has.
        device: where to compute.
        dtype: of the weights, float32 or bfloat16.
        attention: the kernels of attention.
    Raises:
        ParamsError: this attention cannot run on the device in the dtype.
    """
    check_attention(attention, device, dtype)
    model = build(fixture.published, device)
    cast_weights(model.network, dtype)
    model.network.attention = attention
    with products_in("float32", device):
        computed = recompute(model, fixture.arrays)
    tolerance = allowed(device, dtype)
    return [compare(name, computed[name], fixture.arrays[name], tolerance) for name in COMPUTED]


def allowed(device: torch.device, dtype: torch.dtype) -> float:
    """The relative error that rounding in `dtype` explains."""
    if dtype == torch.bfloat16:
        return 2e-2
    return 1e-4 if device.type == "cuda" else 2e-5


def compare(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> ArrayError:
    """Errors of an array [B, ...]; a row that is all zero must be met exactly."""
    theirs = theirs.double().reshape(len(theirs), -1)
    error = (ours.double().cpu().reshape(theirs.shape) - theirs).abs().amax(1)
    relative = torch.where(error == 0, 0.0, error / theirs.abs().amax(1))
    return ArrayError(name, float(error.max()), float(relative.max()), tolerance)


def format_errors(errors: list[ArrayError]) -> str:
    """A table, one array a line."""
    rows = [
        (
            error.name,
            f"{error.absolute:.2e}",
            f"{error.relative:.2e}",
            f"{error.tolerance:.0e}",
            "within" if error.within else "past",
        )
        for error in errors
    ]
    return aligned([COLUMNS, *rows])
