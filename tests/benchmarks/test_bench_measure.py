"""Sides in processes of their own: turns, seconds, memory and failures."""

from pathlib import Path

import pytest

from benchmarks.measure import Side, interleaved
from pipeline.errors import PipelineError

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{PROJECT}")


@pytest.mark.slow
def test_peak_memory_is_what_a_run_takes():
    found = interleaved({"a": Side("fake_sides:holding", {"mb": 60})}, 1)
    assert 58 <= found["a"].peak_mb < 75
    assert found["a"].facts == {"held": 60_000_000}


@pytest.mark.slow
def test_sides_take_turns_and_may_keep_their_own_time():
    sides = {name: Side("fake_sides:saying", {"seconds": s}) for name, s in (("a", 2), ("b", 3))}
    turns = []
    found = interleaved(sides, 2, warm_up=False, on_run=lambda: turns.append(None))
    assert found["a"].seconds == [2, 2]
    assert found["b"].median == 3
    assert len(turns) == 4
    assert found["a"].facts["at"] < found["b"].facts["at"]


@pytest.mark.slow
def test_a_lead_is_run_and_not_timed():
    found = interleaved({"a": Side("fake_sides:counting", lead=1)}, 3, warm_up=False)
    assert found["a"].seconds == [2, 4, 6]


def test_a_side_that_fails_says_why():
    with pytest.raises(PipelineError, match=r"fake_sides:failing failed(.|\n)*no such thing"):
        interleaved({"a": Side("fake_sides:failing")}, 1)
