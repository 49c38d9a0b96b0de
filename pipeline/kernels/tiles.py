"""Outputs of a large head, a tile of positions and outputs at a time."""

import math
from collections.abc import Iterator

from torch import Tensor

TILE = 2**22
"""Outputs in a tile on a CPU: 16 MB of float32, which a cache holds."""
TILE_ROWS = 2048
"""Positions in a tile on a CPU: enough for products to run at full speed."""
WHOLE = {"cpu": 2**24, "cuda": 2**28}
"""Outputs in a tile of whole rows, by kind of device: 64 MB and 1 GB of float32.

Fewer would mean to read all weights for too few positions, and on a card to launch too often.
"""
LINE = 32
"""Numbers in a cache line, of the narrowest type."""
ALIGNED = 64
"""A card's rows start at multiples of this: its quick products take no others."""


def tile_shape(
    num_rows: int, num_columns: int, device: str, *, whole_rows: bool = False
) -> tuple[int, int]:
    """How many positions and outputs a tile has: as few tiles as can be, and none of them small.

    On a card tiles are of whole rows.
    """
    if device == "cuda":
        # Tiles start at whole lines, as what torch.compile makes wants them.
        lines = _even(math.ceil(num_rows / LINE), most=WHOLE[device] // (LINE * num_columns))
        return LINE * lines, num_columns
    if whole_rows:
        return _even(num_rows, most=WHOLE[device] // num_columns), num_columns
    rows = _even(num_rows, most=TILE_ROWS)
    return rows, _even(num_columns, most=TILE // whole_lines(rows))


def tiles(
    num_rows: int, num_columns: int, height: int, width: int
) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of every tile: columns by columns, and from the top in each."""
    for left in range(0, num_columns, width):
        for top in range(0, num_rows, height):
            bottom, right = min(top + height, num_rows), min(left + width, num_columns)
            yield slice(top, bottom), slice(left, right)


def tile_memory(like: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Memory for [num_rows, num_columns], in which the rows of a column are neighbours.

    Products on a CPU are fastest so, and where each column starts a cache line. What fills up the
    lines is 0: oneDNN's products in bfloat16 by AMX read it, and 0 times what is no number is none.
    """
    memory = like.new_empty(num_columns, whole_lines(num_rows))
    memory[:, num_rows:] = 0
    return memory.T[:num_rows]


def aligned(num: int) -> int:
    """The next number of columns that a card's products are quick with."""
    return ALIGNED * math.ceil(num / ALIGNED)


def whole_lines(num: int) -> int:
    """The next whole number of cache lines."""
    return LINE * math.ceil(num / LINE)


def _even(num: int, most: int) -> int:
    """The size of as few equal parts of `num` as hold at most `most` each."""
    return math.ceil(num / max(1, math.ceil(num / max(1, most)))) or 1
