"""Clocks: the level at each time, its slope, what is learned of where nats are paid."""

import math

import pytest
import torch
from embedding_toy import seeded

from pipeline.methods.embedding.clock import NUM_BINS, Clock, cosine_times, decoding_times

G_MIN, G_MAX, DIM = -5.0, 6.0, 4
WIDTH = (G_MAX - G_MIN) / NUM_BINS
KINDS = ("nats", "decoding", "cosine")
CENTRES = G_MIN + WIDTH * (torch.arange(NUM_BINS, dtype=torch.float64) + 0.5)


def clock(kind="nats", vocab_size=55):
    return Clock(kind, G_MIN, G_MAX, vocab_size, DIM)


def learned(integrand, times=1, made=None):
    """A clock that saw each bin's integrand [NUM_BINS] so many times."""
    made = made or clock()
    made.observe(CENTRES.repeat(times), integrand.repeat(times))
    made.learn()
    return made


BUMP = torch.exp(-((CENTRES - 1) ** 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_nats", [True, False])
def test_time_goes_from_one_end_to_the_other_at_its_slope(kind, by_nats):
    made = learned(BUMP, 50, clock(kind))
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    g, _ = made.g_and_slope(t, by_nats=by_nats)
    assert g.dtype == torch.float64
    assert g[[0, -1]].tolist() == pytest.approx([G_MIN, G_MAX], abs=1e-9)
    assert g.diff().min() > 0
    middle, step = made.g_and_slope((t[1:] + t[:-1]) / 2, by_nats=by_nats)[1], t[1]
    inside = ((g[1:] - G_MIN) / WIDTH).floor() == ((g[:-1] - G_MIN) / WIDTH).floor()
    torch.testing.assert_close((g.diff() / step)[inside], middle[inside])
    assert inside.double().mean() > 0.9
    assert by_nats or torch.equal(g, made.g(t))


@pytest.mark.parametrize("kind", KINDS)
def test_levels_at_which_nothing_changes_are_passed_too(kind):
    """There neither fixed clock's own time moves at all, as float64 has it."""
    g, slope = Clock(kind, -40.0, 40.0, 55, DIM).g_and_slope(torch.linspace(0, 1, 1001).double())
    assert g[[0, -1]].tolist() == pytest.approx([-40, 40])
    assert g.diff().min() > 0
    assert 0 < slope.min() <= slope.max() < math.inf


@pytest.mark.parametrize("kind", ["decoding", "cosine"])
def test_a_fixed_clock_is_at_each_edge_when_it_is_said_to_be(kind):
    edges = torch.linspace(G_MIN, G_MAX, NUM_BINS + 1, dtype=torch.float64)
    times = decoding_times(edges, 55) if kind == "decoding" else cosine_times(edges, DIM)
    passed = (times - times[0]) / (times[-1] - times[0])
    made = learned(BUMP, 9, clock(kind))
    torch.testing.assert_close(made.g(passed)[30:70], edges[30:70], rtol=0, atol=1e-6)
    assert made.state_dict().keys() == {"rms"}


def test_cosine_times_are_those_of_analog_bits():
    g = torch.linspace(-4, 6, 11, dtype=torch.float64)
    angle = (cosine_times(g, DIM) + 0.0002) / 1.00025 * math.pi / 2
    torch.testing.assert_close(angle.cos() ** 2, torch.sigmoid(-g - math.log(DIM)))


@pytest.mark.parametrize("vocab_size", [2, 55])
def test_decoding_times_are_the_share_of_wrong_tokens(vocab_size):
    """Of orthogonal vectors, times V / (V - 1): within 4 standard errors, from 20,000 draws."""
    g = torch.tensor([-4.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    scores = torch.randn(4, 20_000, vocab_size, generator=seeded())
    scores[..., 0] += torch.exp(-g / 2)[:, None]
    wrong = (scores.argmax(-1) != 0).double().mean(-1)
    times, largest = decoding_times(g, vocab_size), vocab_size / (vocab_size - 1)
    stderr = largest * (wrong * (1 - wrong) / 20_000).sqrt()
    assert bool(((times - largest * wrong).abs() <= 4 * stderr + 1e-4).all())
    if vocab_size == 2:
        closed = torch.special.ndtr(-torch.exp(-g / 2) / math.sqrt(2))
        torch.testing.assert_close(times, 2 * closed, rtol=1e-6, atol=1e-9)


def test_levels_are_uniform_where_nothing_or_a_constant_was_learned():
    t, without_cost = torch.linspace(0, 1, 12, dtype=torch.float64), clock()
    without_cost.rms.zero_()
    for made in clock(), learned(torch.full((NUM_BINS,), 7.0), 500), without_cost:
        torch.testing.assert_close(made.g(t), G_MIN + (G_MAX - G_MIN) * t)


def test_time_passes_as_nats_are_paid_but_for_a_twentieth_that_all_bins_share():
    integrand = torch.where(CENTRES < 0, 0.0, 3.0)
    made = learned(integrand, 6000)
    paid = integrand > 0
    wanted = torch.where(paid, 0.95 / paid.sum(), 0.0) + 0.05 / NUM_BINS
    torch.testing.assert_close(made.shares(), wanted.double(), rtol=1e-5, atol=1e-9)
    assert made.shares().min() >= 0.05 / NUM_BINS
    torch.testing.assert_close(made.shares().sum().item(), 1.0)
    for nothing in torch.zeros(NUM_BINS), 1e30 * BUMP:
        extreme = learned(nothing, 6000)
        slope = extreme.g_and_slope(torch.rand(100, generator=seeded()))[1]
        assert slope.max() <= WIDTH * NUM_BINS / 0.05 * 1.001


def test_each_visit_of_a_bin_counts_alike():
    """n of them at once move its mean square as far as one after the other, 0.5 % each."""
    made, seen = clock(), torch.tensor([2.0, 4.0, 9.0])
    made.observe(CENTRES[3].expand(3), seen)
    made.observe(CENTRES[8:9], torch.tensor([11.0]))
    made.learn()
    wanted = torch.ones(NUM_BINS)
    wanted[3] = (0.995**3 + (1 - 0.995**3) * seen.square().mean()) ** 0.5
    wanted[8] = (0.995 + 0.005 * 11**2) ** 0.5
    torch.testing.assert_close(made.rms, wanted)
    made.learn()
    torch.testing.assert_close(made.rms, wanted)
    made.observe(CENTRES[3:4], torch.tensor([5.0]))
    made.learn()
    wanted[3] = (0.995 * wanted[3] ** 2 + 0.005 * 5**2) ** 0.5
    torch.testing.assert_close(made.rms, wanted)


def test_the_ends_belong_to_the_outermost_bins():
    made = clock()
    made.observe(torch.tensor([G_MIN, G_MAX]), torch.tensor([3.0, 5.0]))
    made.learn()
    moved = (made.rms != 1).nonzero().squeeze(-1).tolist()
    assert moved == [0, NUM_BINS - 1]


def test_what_was_learned_is_saved():
    made, other = learned(BUMP, 30), clock()
    other.load_state_dict(made.state_dict())
    t = torch.rand(50, generator=seeded())
    assert torch.equal(made.g(t), other.g(t))
    assert not torch.equal(made.g(t), clock().g(t))
