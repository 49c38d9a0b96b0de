"""Many seeded inputs, each of which must give a value or one message, and in time."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.table import LONGEST, shown

SEED = int(os.environ.get("CAMPAIGN_SEED", "0"))
SECONDS = 5.0
"""Of one input."""

NUMBERS = st.sampled_from(
    ["010", "0x_", "1e999", "-1", "0", "1_0", "9" * 30, "9" * 5000, ".nan", "2024-13-45", "1:30"]
)
ODD = st.sampled_from(
    [
        *("", "~", "null", "yes", "!!bool x", "!!python/object x", "*a", "&a b", "<<", "${steps}"),
        *("\x1b[2J", "a\r\nerror: b", "\u202e", "\\ud800", "٣", "[" * 3000, "{" * 3000, "'", '"'),
        *("../../x", "/dev/zero", "~nosuchuser/x", "http://[::1", "a" * 300, "x" * 100_000, "-"),
    ]
)
SCALARS = NUMBERS | ODD | st.text(max_size=12)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["\ud800", "a\0", "../x", "\x1b[2J", "f" * 5000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


def run(check: Callable[[Any], object], inputs: st.SearchStrategy[Any], num: int) -> None:
    """Check `num` inputs of the seed; one that fails is shrunk and shown."""
    print(f"CAMPAIGN_SEED={SEED}, {num} inputs")

    @seed(SEED)
    @settings(
        max_examples=num, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(inputs)
    def each(value: Any) -> None:
        started = time.monotonic()
        check(value)
        assert time.monotonic() - started < SECONDS

    each()


def one_message(call: Callable[[], object]) -> None:
    """`call` returns a value, or raises what `reported` makes one message of."""
    lines: tuple[object, ...] = ("",)
    with suppress(OSError):
        try:
            call()
        except PipelineError as error:
            lines = error.args
    assert lines
    assert all(len(shown(str(line))) <= LONGEST for line in lines)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """A file as it is after bytes of it were flipped, left out, doubled or replaced."""
    place = st.integers(0, len(content))
    piece = st.binary(max_size=8) | SCALARS.map(lambda text: text.encode("utf-8", "replace"))

    def cut(edits: list[tuple[int, int, bytes]]) -> bytes:
        found = content
        for start, length, new in edits:
            found = found[:start] + new + found[start + length :]
        return found

    edit = st.tuples(place, st.integers(0, 9) | place, piece)
    return st.lists(edit, min_size=1, max_size=3).map(cut) | st.binary(max_size=40)
