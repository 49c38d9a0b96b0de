"""Many seeded inputs, each of which must give a value or one message, in time and in memory."""

import io
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pipeline.errors import reported
from pipeline.table import LONGEST

SEED = int(os.environ.get("CAMPAIGN_SEED", "0"))
SECONDS = 5.0
"""Of one input."""
BYTES = 500e6
"""Of one input, above those that the process has before it."""
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal may obey instead of showing it."""
FORGET_PEAK = Path("/proc/self/clear_refs")

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
        if FORGET_PEAK.exists():  # Else the peak is of all that this process has done so far.
            FORGET_PEAK.write_text("5")
        before = peak_bytes()
        if seconds(value) > SECONDS:  # Once may be the doing of a machine that is busy.
            assert seconds(value) < SECONDS
        assert peak_bytes() - before < BYTES

    def seconds(value: Any) -> float:
        started = time.monotonic()
        check(value)
        return time.monotonic() - started

    each()


def peak_bytes() -> int:
    """The most memory that this process has had at once."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def one_message(call: Callable[[], object]) -> None:
    """`call` returns a value, or raises what `reported` makes one message of."""
    said, ended = io.StringIO(), 0
    with redirect_stdout(said), redirect_stderr(said):
        try:
            reported(call)()
        except SystemExit as exit_:
            ended = exit_.code
    assert ended in (0, 1)
    assert said.getvalue().count("error: ") >= ended
    check_said(said.getvalue())


def check_said(text: str) -> None:
    """A message, and each line before it, is of 1,000 characters at most, shown and not obeyed."""
    assert "Traceback" not in text
    assert not OBEYED.search(text)
    notes, error, message = text.rstrip("\n").partition("error: ")
    assert all(len(line) <= LONGEST for line in [*notes.splitlines(), error + message])


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
