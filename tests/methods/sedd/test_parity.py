"""Agreement with the paper's reference code on its own tiny checkpoints (tests/golden)."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from toy import entropy_of

from pipeline.checkpoints.reference.fixture import COMPUTED, read_fixture
from pipeline.checkpoints.reference.reading import build
from pipeline.checkpoints.reference.recompute import recompute, reference_rounding
from pipeline.checkpoints.reference.verify import format_errors, verify
from pipeline.methods.sedd.graph import Uniform

GOLDEN = Path(__file__).parents[2] / "golden"
FIXTURES = ("absorb_loglinear", "absorb_pth", "uniform_geometric")
CPU = torch.device("cpu")


def test_weights_are_those_the_fixtures_were_made_with():
    expected = json.loads((GOLDEN / "sha256.json").read_text())
    assert len(expected) == len(FIXTURES)
    for path, sha256 in expected.items():
        assert hashlib.sha256((GOLDEN / path).read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)], ids=str
)
@pytest.mark.parametrize("name", FIXTURES)
def test_every_array(name, dtype, tolerance):
    errors = verify(read_fixture(GOLDEN / name), CPU, dtype, "sdpa")
    assert [error.name for error in errors] == list(COMPUTED)
    assert {error.tolerance for error in errors} == {tolerance}
    assert all(error.within for error in errors), format_errors(errors)


def plain_score_entropy(num_states, log_score, x0, xt, sigma):
    """Uniform score entropy [B, L] as the reference writes it, in the dtype it is given."""
    noise = torch.expm1(sigma)[:, None]
    ratio = 1 - num_states / (noise + num_states)
    at_x0, at_xt = (log_score.gather(-1, x[..., None])[..., 0] for x in (x0, xt))
    others = log_score.mean(-1) - at_xt / num_states
    mean_score = log_score.exp().mean(-1) - at_xt.exp() / num_states
    stayed = ratio * ((1 - 1 / num_states) * (ratio.log() - 1) - others)
    moved = ((-ratio.log() - 1) / ratio - num_states + 2) / num_states - others - at_x0 / noise
    return mean_score + torch.where(x0 == xt, stayed, moved)


@pytest.mark.parametrize("num_states", [4, 19, 300])
def test_rounding_of_the_reference_is_what_verify_adds(num_states):
    draw = torch.Generator().manual_seed(0)
    sigma = torch.logspace(-2.5, 1, 8)
    x0, xt = torch.randint(num_states, (2, 8, 6), generator=draw)
    xt[:, ::2] = x0[:, ::2]
    log_score = torch.randn(8, 6, num_states, generator=draw)
    log_score = log_score.scatter(-1, xt[..., None], 0.0)
    graph = Uniform(num_states)
    exact = plain_score_entropy(num_states, log_score.double(), x0, xt, sigma.double())
    ours, _ = entropy_of(graph, log_score.double(), x0, xt, sigma.double())
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-9)
    rounded = plain_score_entropy(num_states, log_score, x0, xt, sigma).double()
    scale = exact.abs().amax(1, keepdim=True)
    missed = reference_rounding(graph, x0, xt, sigma.double())
    assert float(((rounded - exact) / scale).abs().max()) > 1e-5
    assert float(((rounded - exact - missed) / scale).abs().max()) < 2e-6


@torch.no_grad()
def test_float32_is_as_good_as_float64_where_the_reference_is_not():
    fixture = read_fixture(GOLDEN / "uniform_geometric")
    narrow = build(fixture.published, CPU)
    wide = build(fixture.published, CPU).double()
    for name in ("score_entropy", "loss"):
        ours, exact = (recompute(model, fixture.arrays)[name] for model in (narrow, wide))
        torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-6)
