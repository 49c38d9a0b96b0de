"""Outputs of a large head, a tile of positions and outputs at a time."""

import math
from collections.abc import Iterator

from torch import Tensor

TILE = {"cpu": 2**22, "cuda": 2**24}
"""Outputs in a tile, by kind of device: 16 MB of float32, which a cache holds, and 64 MB."""
TILE_ROWS = 2048
"""Positions in a tile: enough for products to run at full speed."""
WHOLE = 2**24
"""Outputs in a tile of whole rows: fewer would mean to read all weights for too few positions."""
LINE = 32
"""Numbers in a cache line, of the narrowest type."""


def tile_shape(
    num_rows: int, num_columns: int, device: str, *, whole_rows: bool = False
) -> tuple[int, int]:
    """How many positions and outputs a tile has: as few tiles as can be, and none of them small."""
    if whole_rows:
        return _even(num_rows, most=WHOLE // num_columns), num_columns
    rows = _even(num_rows, most=TILE_ROWS)
    return rows, _even(num_columns, most=TILE[device] // _lines(rows))


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

    Products on a CPU are fastest so, and where each column starts a cache line.
    """
    return like.new_empty(num_columns, _lines(num_rows)).T[:num_rows]


def place_in(ids: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Where ids [...] stand among the columns of a tile [..., 1], and whether they do."""
    place = (ids - columns.start)[..., None]
    num = columns.stop - columns.start
    return place.clamp(0, num - 1), (place >= 0) & (place < num)


def _lines(num: int) -> int:
    """The next whole number of cache lines."""
    return LINE * math.ceil(num / LINE)


def _even(num: int, most: int) -> int:
    """The size of as few equal parts of `num` as hold at most `most` each."""
    return math.ceil(num / max(1, math.ceil(num / max(1, most)))) or 1
