"""Verification fails where anything that the fixture's rows depend on is changed."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints.reference.fixture import COMPUTED, read_fixture
from pipeline.checkpoints.reference.verify import allowed, compare, format_errors, verify
from pipeline.errors import ParamsError

GOLDEN = Path(__file__).parents[1] / "golden"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def past(fixture):
    return {error.name for error in verify(fixture, CPU, torch.float32, "sdpa") if not error.within}


def with_array(fixture, name, index, factor):
    array = fixture.arrays[name].clone()
    array.view(-1)[index] *= factor
    return replace(fixture, arrays=fixture.arrays | {name: array})


def with_largest_scaled(fixture, name, factor):
    """The largest entry of one tensor, of an embedding the largest that a row looks up."""
    tensor = fixture.published.weights[name].clone()
    used = torch.ones_like(tensor, dtype=torch.bool)
    if name == "vocab_embed.embedding":
        used[:] = torch.isin(torch.arange(len(tensor)), fixture.arrays["x_t"])[:, None]
    tensor.view(-1)[tensor.abs().where(used, 0).argmax()] *= factor
    weights = fixture.published.weights | {name: tensor}
    return replace(fixture, published=replace(fixture.published, weights=weights))


@pytest.mark.parametrize(
    ("name", "num_tensors"),
    [
        ("absorb_loglinear", 31),
        pytest.param("absorb_pth", 21, marks=pytest.mark.slow),
        pytest.param("uniform_geometric", 41, marks=pytest.mark.slow),
    ],
)
def test_every_tensor_counts(name, num_tensors):
    fixture = read_fixture(GOLDEN / name)
    assert len(fixture.published.weights) == num_tensors
    for tensor in fixture.published.weights:
        for factor in (0.5, 1.5):
            assert past(with_largest_scaled(fixture, tensor, factor)), (tensor, factor)


@pytest.mark.parametrize("name", ["absorb_loglinear", "absorb_pth", "uniform_geometric"])
def test_every_array_counts(name):
    fixture = read_fixture(GOLDEN / name)
    assert past(fixture) == set()
    for array in COMPUTED:
        largest = int(fixture.arrays[array].abs().argmax())
        assert past(with_array(fixture, array, largest, 1 + 1e-4)) == {array}
        assert past(with_array(fixture, array, largest, math.nan)) == {array}


def test_inputs_count():
    fixture = read_fixture(GOLDEN / "absorb_pth")
    first_masked = int((fixture.arrays["x_t"] == 31).flatten().nonzero()[0])
    assert past(with_array(fixture, "t", 4, 0.999)) == set(COMPUTED)
    assert past(with_array(fixture, "x0", first_masked, 0)) == {"score_entropy", "loss"}
    assert past(with_array(fixture, "x_t", first_masked, 0)) == set(COMPUTED) - {"sigma", "dsigma"}
    step = {"step_size": fixture.arrays["step_size"] / 2}
    changed = replace(fixture, arrays=fixture.arrays | step)
    assert past(changed) == {"euler_probs", "analytic_probs"}


def test_rows_are_compared_each_by_its_own_largest_entry():
    theirs = torch.tensor([[1e6, 1.0], [2.0, 0.5], [0.0, 0.0]])
    error = compare("loss", theirs + torch.tensor([[1.0], [1e-3], [0.0]]), theirs, 1e-3)
    assert (error.absolute, error.within) == (1.0, True)
    assert error.relative == pytest.approx(5e-4, rel=1e-3)
    assert not compare("loss", theirs + 1e-30 * (theirs == 0), theirs, 1e-3).within
    assert not compare("loss", theirs.clone().fill_(math.nan), theirs, 1e-3).within
    assert not compare("loss", theirs, theirs / 0, 1e-3).within


def test_tolerances():
    assert allowed(CPU, torch.float32) == 2e-5
    assert allowed(CUDA, torch.float32) == 1e-4
    assert allowed(CPU, torch.bfloat16) == allowed(CUDA, torch.bfloat16) == 2e-2


def test_matmul_precision_is_full_and_then_restored(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pipeline.checkpoints.reference.verify.recompute",
        lambda model, arrays: seen.append(torch.get_float32_matmul_precision()) or arrays,
    )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert past(read_fixture(GOLDEN / "absorb_pth")) == set()
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "high")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("device", "dtype", "cause"),
    [
        (CPU, torch.bfloat16, r"CUDA devices only \(got cpu\)"),
        (CUDA, torch.float32, r"float16 or bfloat16 only \(got float32\)"),
        (CUDA, torch.bfloat16, "flash-attn cannot be imported .*flash_attn.*"),
    ],
)
def test_flash_where_it_cannot_run(device, dtype, cause, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ParamsError, match=f"^attention: flash cannot run, .*{cause}; use sdpa$"):
        verify(read_fixture(GOLDEN / "absorb_pth"), device, dtype, "flash")


def test_table():
    lines = format_errors([compare("sigma", torch.ones(2), torch.ones(2), 2e-5)]).splitlines()
    assert lines[1].split() == ["sigma", "0.00e+00", "0.00e+00", "2e-05", "within"]
    assert lines[0].index("tolerance") == lines[1].index("2e-05")
