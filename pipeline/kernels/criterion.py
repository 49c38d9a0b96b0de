"""What a criterion is, and how it reaches one number of each row.

A criterion is written once, in place, and runs two ways: operation by operation on a CPU, and on a
card as what torch.compile makes of it. There a gather or a scatter would end the fusion, so that a
row's number is found by comparing columns.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Criterion = Callable[..., Tensor]
"""(outputs [n, K], columns, *by_position [n]) -> nats [n].

`columns` are those of the K outputs among all V. Outputs become the gradient of the nats' sum.
"""


class Cost(NamedTuple):
    """What outputs at N positions cost.

    Attributes:
        criterion: a function that stays the same from step to step, so that it is compiled once.
        by_position: what it takes beside outputs, tensors [N].
        whole_rows: whether it must see all outputs of a position at once, as a softmax must.
    """

    criterion: Criterion
    by_position: tuple[Tensor, ...]
    whole_rows: bool

    def at(self, rows: slice) -> tuple[Tensor, ...]:
        """`by_position` of some positions."""
        return tuple(each[rows] for each in self.by_position)


def is_in(ids: Tensor, columns: slice) -> Tensor:
    """Whether ids [...] are among the columns of a tile."""
    return (ids >= columns.start) & (ids < columns.stop)


def value_at(outputs: Tensor, ids: Tensor, columns: slice) -> Tensor:
    """What stands in outputs [..., K] at ids [...]; any number if the tile has no such column."""
    if torch.compiler.is_compiling():
        return torch.where(_marks(outputs, ids, columns), outputs, 0.0).sum(-1)
    return outputs.gather(-1, _place_in(ids, columns)).squeeze(-1)


def add_at_(outputs: Tensor, ids: Tensor, columns: slice, values: Tensor) -> Tensor:
    """Outputs [..., K] with values [...] added at ids [...], if the tile has the column."""
    if torch.compiler.is_compiling():
        return outputs.add_(torch.where(_marks(outputs, ids, columns), values[..., None], 0.0))
    there = torch.where(is_in(ids, columns), values, 0.0)
    return outputs.scatter_add_(-1, _place_in(ids, columns), there[..., None])


def put_at(outputs: Tensor, ids: Tensor, columns: slice, values: Tensor | float) -> Tensor:
    """Outputs [..., K] with values [...] in place of those at ids [...], if the tile has them."""
    wide = values[..., None] if isinstance(values, Tensor) else values
    if torch.compiler.is_compiling():
        return torch.where(_marks(outputs, ids, columns), wide, outputs)
    return outputs.scatter(-1, *_to_put(outputs, ids, columns, wide))


def put_at_(outputs: Tensor, ids: Tensor, columns: slice, values: Tensor | float) -> Tensor:
    """As `put_at`, written to outputs."""
    if torch.compiler.is_compiling():
        return outputs.copy_(put_at(outputs, ids, columns, values))
    wide = values[..., None] if isinstance(values, Tensor) else values
    return outputs.scatter_(-1, *_to_put(outputs, ids, columns, wide))


def _to_put(
    outputs: Tensor, ids: Tensor, columns: slice, values: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Where to scatter in outputs, and what: what stands there if the tile lacks the column."""
    place = _place_in(ids, columns)
    there = is_in(ids, columns)[..., None]
    return place, torch.where(there, values, outputs.gather(-1, place))


def _place_in(ids: Tensor, columns: slice) -> Tensor:
    """Where ids [...] stand among the columns of a tile [..., 1], or the nearest of them."""
    return (ids - columns.start).clamp(0, columns.stop - columns.start - 1)[..., None]


def _marks(outputs: Tensor, ids: Tensor, columns: slice) -> Tensor:
    """Which of outputs [..., K] stand at ids [...]."""
    places = torch.arange(outputs.shape[-1], device=outputs.device) + columns.start
    return places == ids[..., None]
