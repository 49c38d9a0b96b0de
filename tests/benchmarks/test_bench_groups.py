"""What groups of rows make of their measurements, and the steps that they time."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import sample, shapes, to_bound, train
from benchmarks.machine import Machine
from benchmarks.measure import Measured
from benchmarks.profile import profiled

MACHINE = Machine(flops=100e9, bytes=10e9)


@pytest.fixture
def tiny(monkeypatch):
    sizes = {"vocab_size": 5, "width": 8, "length": 4, **shapes.FOUR}
    monkeypatch.setattr(shapes, "SIZES", {"char": sizes})
    monkeypatch.setattr(train, "BATCH", {"char": 4})
    monkeypatch.setattr(sample, "NUM", {"char": 2})
    monkeypatch.setattr(sample, "NUM_STEPS", {"char": 7})


@pytest.mark.parametrize("side", [train.plain, partial(train.ours, compiled=False)])
def test_a_training_side_steps(tiny, side):
    assert side("char", "raw")()["gradient_mb"] > 0


def test_memory_is_above_the_gradients_and_flat():
    sides = [Measured([1.0], peak, {"gradient_mb": 50.0}) for peak in (1050.0, 150.0, 155.0)]
    row = train.memory_row(*sides)
    assert row.ratio == 10
    assert [check.reached for check in row.checks] == [True, True]
    assert not train.memory_row(sides[0], sides[0], sides[1]).checks[0].reached


def test_some_calls_of_plain_sampling_stand_for_all(tiny):
    facts = sample.plain("char", timed=2)()
    assert facts["calls"] == 8
    assert facts["seconds"] > 0


def test_cached_sampling_says_its_evaluations(tiny):
    facts = sample.ours("char", "conditional")()
    assert 1 <= facts["nfe_max"] <= 4
    assert facts["taken"]["rows"] <= 2 * 4
    assert facts["taken"]["first_positions"] == 4 * facts["taken"]["rows"]
    assert facts["taken"]["head_positions"] <= 2 * 4


def test_sampling_from_the_raw_score_counts_what_it_computes(tiny, monkeypatch):
    monkeypatch.setattr(sample, "NUM", {"char": 30})
    facts = sample.ours("char", "raw")()
    rows = facts["taken"]["rows"]
    assert facts["calls"] < rows <= 30 * 8
    assert 0 < facts["taken"]["first_positions"] < 4 * rows
    assert facts["taken"]["head_positions"] < 4 * rows


def test_plain_counts_every_call_and_ours_what_is_needed(tiny):
    plain = Measured([8.0], 1.0, {"calls": 8})
    ours = Measured([0.1], 1.0, {"calls": 4, "taken": {"rows": 8}, "nfe_max": 4})
    row = sample.row_of("a", "char", "conditional", (plain, ours), MACHINE, 40, reference_share=0.5)
    assert row.ratio == pytest.approx(80)
    assert row.plain.share * 8 > row.ours.share * 0.1


@pytest.mark.parametrize("side", ["plain", "ours"])
def test_training_to_the_bound_counts_training_alone(monkeypatch, side):
    packed, tokenizer = to_bound.names()
    few = replace(packed, test_rows=packed.test_rows[:8])
    monkeypatch.setattr(to_bound, "names", lambda: (few, tokenizer))
    monkeypatch.setattr(to_bound, side.upper(), {"num_steps": 2, "batch_size": 4, "lr": 1e-3})
    facts = getattr(to_bound, side)()()
    # No better than guessing among all characters, after two steps.
    assert facts["bound"] > math.log(tokenizer.size) - 0.5
    assert facts["seconds"] > 0


def test_a_profile_is_a_trace_and_a_table(tmp_path):
    product = torch.rand(64, 64)
    text = profiled("sample_any", lambda: {"x": product @ product}, MACHINE, tmp_path / "t.json")
    assert "aten::mm" in text
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
