"""The bound against what it bounds, by enumeration; its Monte Carlo estimate against itself."""

import functools
import math

import pytest
import torch
from chains import kernel
from enumeration import (
    bound_by_quadrature,
    clean_states,
    exact_nats,
    prior,
    trained_model,
    transition,
)
from toy import ExactNetwork, all_states, exact_model, toy_distribution

from pipeline.kernels.tiled import Nats
from pipeline.methods.estimates import rate, replicate_times
from pipeline.methods.sedd.bound import denoise_nats, draw_bound, draw_integral, draw_pair
from pipeline.methods.sedd.loss import ScoreEntropy, score_entropy
from pipeline.methods.sedd.weights import denoise_weights

CASES = [
    ("absorb", "conditional", "loglinear"),
    ("absorb", "raw", "loglinear"),
    ("absorb", "raw", "geometric"),
    ("uniform", "raw", "loglinear"),
    ("uniform", "raw", "geometric"),
    ("uniform", "conditional", "loglinear"),
]
every_case = pytest.mark.parametrize(("graph", "parameterization", "noise"), CASES)


@functools.cache
def trained(graph, parameterization, noise):
    """A trained model with the terms of its bound by quadrature."""
    model = trained_model(
        graph, parameterization, noise=noise, sigma_min=1e-2, sigma_max=6.0, t_min=0.1
    )
    return model, bound_by_quadrature(model)


@every_case
def test_bound_of_the_exact_score_is_the_negative_log_likelihood(graph, parameterization, noise):
    """With sigma(1) >= 20 the prior is the forward process's own end."""
    model, p0 = exact_model(graph, parameterization, noise=noise, sigma_min=1e-5)
    assert model.noise.sigma(torch.tensor(1.0, dtype=torch.float64)) >= 20
    bound = bound_by_quadrature(model)
    torch.testing.assert_close(bound.total[0], -p0.flatten().log(), rtol=0, atol=1e-6)
    assert bound.reconstruction.min() >= 0


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
@pytest.mark.parametrize("noise", ["loglinear", "geometric"])
def test_each_term_counts_where_none_is_small(graph, noise):
    """With the exact score, the excess over -log p(x0) is what the prior and the denoise lose.

    E log p(x1) / prior(x1) + E log p(x0 | xt) / denoise(x0 | xt), xt at t_min: an identity at any
    sigma(1) and t_min, so here with much noise missing at one end and much left at the other.
    """
    short = {"eps": 0.2, "sigma_min": 0.05, "sigma_max": 1.5, "t_min": 0.3}
    model, p0 = exact_model(graph, "raw", noise=noise, **short)
    clean, states = clean_states(model), all_states(model.graph.num_states, model.length)
    ends = torch.tensor([1.0, model.t_min], dtype=torch.float64)
    to_end, to_start = (transition(model.graph, clean, s) for s in model.noise.sigma(ends))
    p0 = p0.flatten()
    lost_at_prior = torch.xlogy(to_end, (p0 @ to_end) / prior(model)).sum(-1)
    posterior = p0[:, None] * to_start / (p0 @ to_start)
    with torch.no_grad():
        denoised = kernel(denoise_weights(model, states, ends[1]), clean).T
    reachable = to_start > 0
    ratio = torch.where(reachable, posterior / denoised, 1.0)
    lost_at_denoise = (to_start * ratio.log()).sum(-1)
    bound = bound_by_quadrature(model)
    assert lost_at_prior.abs().max() > 0.01
    assert lost_at_denoise.abs().max() > 0.001
    expected = -p0.log() + lost_at_prior + lost_at_denoise
    torch.testing.assert_close(bound.total[0], expected, rtol=0, atol=1e-6)


@every_case
def test_likelihood_by_enumeration_is_that_of_the_data_for_the_exact_score(
    graph, parameterization, noise
):
    """What the next test trusts."""
    model, p0 = exact_model(graph, parameterization, noise=noise, t_min=1e-4)
    exact = exact_nats(model, num_steps=1000)
    torch.testing.assert_close(exact, -p0.flatten().log(), rtol=0, atol=1e-4)


@every_case
def test_exact_likelihood_of_a_trained_model_lies_under_its_bound(graph, parameterization, noise):
    """For every text, and not by much: the process started from the bound's own prior."""
    model, bound = trained(graph, parameterization, noise)
    exact = exact_nats(model)
    assert (-exact).exp().sum().item() == pytest.approx(1, abs=1e-6)
    p0 = toy_distribution(model.config.vocab_size, model.length).flatten()
    gap = bound.total[0] - exact
    # Both sides are accurate to 3e-5: so little does it matter to double nodes and steps.
    assert gap.min() > 1e-3
    assert gap.max() < 1.2
    assert 0.02 < (p0 @ gap).item() < 0.4
    untrained = math.log(len(p0))
    assert (p0 @ exact).item() < untrained - 0.2


@every_case
def test_monte_carlo_agrees_with_quadrature_term_by_term(graph, parameterization, noise):
    """Within 4 standard errors, from 16 replicates (t of 15 degrees: 1e-3 a comparison)."""
    model, exact = trained(graph, parameterization, noise)
    repeats, num_replicates = 32, 16
    x0 = clean_states(model).repeat(repeats, 1)
    drawn = draw_bound(
        model,
        x0,
        num_replicates=num_replicates,
        num_draws=4,
        batch_size=1000,
        seed=0,
    )
    torch.testing.assert_close(drawn.prior, exact.prior.repeat(repeats))
    for name in "integral", "reconstruction", "total":
        replicates = getattr(drawn, name).mean(1)
        stderr = replicates.std().item() / num_replicates**0.5
        expected = getattr(exact, name).mean().item()
        assert replicates.mean().item() == pytest.approx(expected, abs=4 * stderr + 1e-12), name
        assert name == "reconstruction" or stderr < 0.02 * expected, name
        texts = getattr(drawn, name).view(num_replicates, repeats, -1).mean(1)
        error = texts.mean(0) - getattr(exact, name)[0]
        if name != "reconstruction":  # For one text too rare an event to have an error.
            assert bool((error.abs() <= 5 * texts.std(0) / num_replicates**0.5).all()), name


@torch.no_grad()
@every_case
def test_training_minimises_the_integral_of_the_bound(graph, parameterization, noise):
    """The loss is its integrand at uniform times, in nats a text; within 4 standard errors."""
    model, exact = trained(graph, parameterization, noise)
    method, generator = ScoreEntropy(model), torch.Generator().manual_seed(0)
    x0 = clean_states(model).repeat(40, 1)
    batches = torch.stack([method.loss(*method.draw(x0, generator)) for _ in range(16)])
    batches *= (1 - model.t_min) / len(x0)
    expected = exact.integral.mean().item()
    stderr = batches.std().item() / 4
    assert stderr < 0.02 * expected
    assert batches.mean().item() == pytest.approx(expected, abs=4 * stderr)


@torch.no_grad()
@every_case
def test_reconstruction_is_of_the_chances_that_the_final_denoise_draws_with(
    graph, parameterization, noise
):
    """Normalised ones, which those of a network are not before; for every xt and text."""
    model, _ = trained(graph, parameterization, noise)
    clean, states = clean_states(model), all_states(model.graph.num_states, model.length)
    t = torch.tensor(model.t_min, dtype=torch.float64)
    drawn = kernel(denoise_weights(model, states, t), clean)
    for xt, chances in zip(states, drawn, strict=True):
        nats = denoise_nats(model, clean, xt.expand(len(clean), -1), t)
        torch.testing.assert_close((-nats).exp(), chances, rtol=1e-9, atol=1e-12)


def test_conditional_bound_is_the_same_under_every_schedule_and_has_no_prior():
    """It integrates over the move chance in (0, 1]: the schedule has no say, sigma(1) neither."""
    bounds = []
    for changes in {"eps": 1e-3}, {"eps": 0.3}, {"noise": "geometric", "sigma_max": 2.0}:
        model, _ = exact_model("absorb", "conditional", t_min=0.1, **changes)
        assert model.t_min == 0
        bounds.append(
            draw_bound(
                model,
                clean_states(model),
                num_replicates=16,
                num_draws=2,
                batch_size=9,
                seed=0,
            )
        )
    for bound in bounds:
        assert torch.equal(bound.total, bounds[0].total)
        assert bound.prior.abs().max() == bound.reconstruction.abs().max() == 0


def test_integral_runs_from_t_min_to_one_and_its_length_is_a_factor():
    model, _ = exact_model("absorb", "raw", t_min=0.25, eps=1e-3)
    x0, all_masks = torch.tensor([[0, 1], [2, 2], [1, 0]]), torch.full((3, 2), 3)
    share, times = torch.tensor([[0, 0.5, 1], [0.25, 0.625, 1]], dtype=torch.float64)
    all_move = torch.zeros(3, 2, dtype=torch.float64)
    drawn = draw_integral(model, x0, share, all_move, torch.Generator())
    expected = 0.75 * score_entropy(model, x0, all_masks, times).positions.sum(-1)
    torch.testing.assert_close(drawn, expected, rtol=1e-12, atol=0)


def test_antithetic_pairs_have_less_variance_on_padded_texts():
    """One uncertain position among certain ones: exactly one draw of a pair noises it."""
    model, p0 = exact_model("absorb", "conditional", length=3)
    padded = torch.full_like(p0, 1e-4)
    padded[:, 0, 0] = 1 / 3
    model.network = ExactNetwork(model, padded / padded.sum())
    x0 = torch.tensor([[0, 0, 0]]).expand(20_000, -1)
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    pairs = draw_pair(model, x0, 1 - uniform(len(x0)) / 2, generator)
    lone = sum(
        draw_integral(model, x0, uniform(len(x0)), uniform(*x0.shape), generator) for _ in range(2)
    )
    stderr = (pairs.var() / len(x0) + lone.var() / len(x0)).sqrt().item()
    assert pairs.mean().item() == pytest.approx(lone.mean().item(), abs=4 * stderr)
    assert pairs.var() < 0.6 * lone.var()


def test_a_pair_noises_each_position_once_where_the_move_chance_is_its_clock(monkeypatch):
    model, _ = exact_model("absorb", "conditional", length=3)
    seen = []
    nats = Nats(torch.zeros(()), torch.zeros(50, 3))
    monkeypatch.setattr(
        "pipeline.methods.sedd.bound.masked_cross_entropy",
        lambda _, x0, xt: (seen.append(xt), nats)[1],
    )
    generator = torch.Generator().manual_seed(0)
    x0 = torch.zeros(50, 3, dtype=torch.int64)
    draw_pair(model, x0, torch.full((50,), 0.7, dtype=torch.float64), generator)
    first, second = (xt == model.graph.mask_id for xt in seen)
    assert torch.equal(first, ~second)


def test_odd_draws_are_refused():
    model, _ = exact_model("absorb", "conditional")
    for num_draws in 0, 1, 3:
        with pytest.raises(ValueError, match=f"must be even and at least 2 .got {num_draws}."):
            draw_bound(
                model,
                torch.tensor([[0, 1]]),
                num_replicates=16,
                num_draws=num_draws,
                batch_size=1,
                seed=0,
            )


def test_a_wrong_model_has_a_larger_bound():
    model, p0 = exact_model("absorb", "conditional")
    model.network = ExactNetwork(model, torch.full_like(p0, 1 / p0.numel()))
    mean = (p0.flatten() @ bound_by_quadrature(model).total[0]).item()
    entropy = -(p0 * p0.log()).sum().item()
    assert mean == pytest.approx(math.log(9), abs=1e-6)
    assert mean > entropy + 0.1


def test_replicate_times_are_stratified_over_all_and_within_each_text():
    later = replicate_times(10, 3, torch.Generator().manual_seed(0))
    assert later.shape == (3, 10)
    assert later.min() > 0.5
    strata = ((1 - torch.cat([later, 1 - later])) * 60).floor().long()
    assert sorted(strata.flatten().tolist()) == list(range(60))
    assert sorted((strata // 10)[:, 0].tolist()) == list(range(6))


def test_rate_has_the_errors_of_its_parts():
    generator = torch.Generator().manual_seed(0)
    num_symbols = torch.full((400,), 5)
    texts = torch.randn(400, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(16, 400, generator=generator, dtype=torch.float64)
    value = rate(10 + texts + noise, num_symbols)
    assert value.value == pytest.approx(2, abs=4 * value.stderr)
    assert value.data_stderr == pytest.approx(1 / 5 / 20, rel=0.15)
    assert value.mc_stderr == pytest.approx(0.1 / 5 / 20 / 4, rel=0.6)
    assert rate(texts[None] + 10, num_symbols).mc_stderr == 0
