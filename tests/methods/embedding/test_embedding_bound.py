"""The bound against what it bounds; every term; its times have no say in it."""

import functools
import math

import pytest
import torch
from embedding_toy import bayes_model, embedding_config, free, random_model, seeded
from toy import all_states, toy_distribution

from pipeline.methods.embedding import method
from pipeline.methods.embedding.bound import (
    diffusion_nats,
    draw_bound,
    draw_reconstruction,
    noised_vectors,
    prior_nats,
)
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.estimates import rate

P0 = toy_distribution(3, 2)
P = P0.flatten()
ENTROPY = -(P * P.log()).sum().item()
TEXTS = all_states(3, 2)
COPIES = 300


def bound_of(model, x0, seed=0, num_replicates=16, num_draws=4, known=None):
    return draw_bound(
        model,
        x0,
        num_replicates=num_replicates,
        num_draws=num_draws,
        batch_size=3000,
        seed=seed,
        known=known,
    )


def by_text(bound):
    """Totals of each text [R, 9], in the mean over copies side by side."""
    return bound.total.view(len(bound.total), COPIES, 9).mean(1)


def mean_and_error(replicates):
    """Of [R, ...] over the replicates."""
    return replicates.mean(0), replicates.std(0) / len(replicates) ** 0.5


@torch.no_grad()
def taught(model, x0):
    """The model, whose clock has seen where nats are paid: draws spread less so."""
    clock, generator = model.clock, seeded(1)
    u = torch.rand(len(x0), dtype=torch.float64, generator=generator)
    g = clock.g_min + (clock.g_max - clock.g_min) * u
    clock.observe(g, diffusion_nats(model, x0, g, generator).sum(-1))
    clock.learn()
    return model


@functools.cache
def bayes_bound(factorised=False, **changes):
    p0 = P0.sum(1)[:, None] * P0.sum(0) if factorised else P0
    x0 = TEXTS.repeat(COPIES, 1)
    model = taught(bayes_model(p0, **changes), TEXTS.repeat(10_000, 1))
    return bound_of(model, x0, num_draws=8)


def test_bound_of_the_bayes_denoiser_is_the_negative_log_likelihood():
    """Of every text, and in the mean over texts, within 4 standard errors: of that mean 1 %."""
    totals = by_text(bayes_bound())
    mean, error = mean_and_error(totals)
    assert bool(((mean + P.log()).abs() <= 4 * error).all())
    mean, error = mean_and_error(totals @ P)
    assert error < 0.01 * ENTROPY
    assert mean.item() == pytest.approx(ENTROPY, abs=4 * error.item())


def test_bound_given_a_token_is_the_negative_log_likelihood_of_the_other():
    """4 standard errors; what is known costs nothing, in no term."""
    x0 = TEXTS.repeat(COPIES, 1)
    known = torch.tensor([True, False]).expand_as(x0)
    model = taught(bayes_model(P0), TEXTS.repeat(1000, 1))
    bound = bound_of(model, x0, known=known)
    mean, error = mean_and_error(by_text(bound))
    exact = -(P0 / P0.sum(1, keepdim=True)).flatten().log()
    assert bool(((mean - exact).abs() <= 4 * error).all())
    mean, error = mean_and_error(by_text(bound) @ P)
    assert mean.item() == pytest.approx((P @ exact).item(), abs=4 * error.item())
    assert error < 0.02
    whole = prior_nats(model, x0)
    torch.testing.assert_close(bound.prior, whole / 2)
    # At levels where nothing is certain.
    unsure, all_known = bayes_model(P0, g_min=0.0), torch.ones_like(TEXTS, dtype=torch.bool)
    assert bound_of(unsure, TEXTS, num_draws=2, known=all_known).total.eq(0).all()
    with pytest.raises(ValueError, match="trained without known positions"):
        bound_of(bayes_model(P0, known=0.0), x0, known=known)


def test_bound_of_independent_positions_is_the_sum_of_their_entropies():
    """More than the texts' entropy by what positions tell of each other, 6 standard errors."""
    mean, error = mean_and_error(by_text(bayes_bound(factorised=True)) @ P)
    marginals = torch.stack([P0.sum(1), P0.sum(0)])
    entropies = -(marginals * marginals.log()).sum().item()
    assert mean.item() == pytest.approx(entropies, abs=4 * error.item())
    assert entropies - ENTROPY > 6 * error


@pytest.mark.parametrize(
    "changes",
    [
        {"clock": "nats", "dim": 2, "self_condition": 0.25},
        {"clock": "decoding", "norm": "layernorm"},
        {"clock": "cosine", "dim": 32},
        {"input": "vector", "dim": 1},
        {"input": "vector", "dim": 8, "vocab_size": 55, "g_min": -7.0, "g_max": 8.0},
    ],
)
def test_a_head_of_zeros_costs_the_log_of_the_vocabulary_a_token(changes):
    """Within 4 standard errors of 1.5 % or less; what the last level keeps costs up to 0.2 %."""
    torch.manual_seed(0)
    model = EmbeddingDiffusion(
        embedding_config(**({"num_blocks": 1, "self_condition": 0.0} | changes))
    ).eval()
    x0 = torch.randint(model.config.vocab_size, (150, model.length), generator=seeded())
    found = rate(
        bound_of(taught(model, x0.repeat(30, 1)), x0).total, torch.full((150,), model.length)
    )
    wanted = math.log(model.config.vocab_size)
    assert found.mc_stderr < 0.015 * wanted
    assert abs(found.value - wanted) <= 4 * found.mc_stderr + 0.002 * wanted


def test_the_clock_has_no_say():
    """The bound has times of its own: its draws are equal to the bit, whatever the model's are."""
    nats, *others = (
        bound_of(bayes_model(P0, clock=clock), TEXTS, num_replicates=2).total
        for clock in ("nats", "decoding", "cosine")
    )
    assert all(torch.equal(nats, other) for other in others)


@pytest.mark.parametrize("ends", [(-7.0, 7.0), (-1.0, 6.0), (-5.0, 2.0)])
def test_other_ends_move_nats_between_the_terms(ends):
    """The sum stays within 4 standard errors, where what is lost at the ends is small."""
    g_min, g_max = ends
    here, there = bayes_bound(), bayes_bound(g_min=g_min, g_max=g_max)
    gap, error = mean_and_error((by_text(there) - by_text(here)) @ P)
    # Cut short, the prior forgets that vectors are tokens', the last draw what they say together.
    assert -4 * error <= gap <= 4 * error + (0.0 if ends == (-7.0, 7.0) else 0.05)

    def moved(name):
        gain = getattr(there, name) - getattr(here, name)
        return (gain.reshape(-1, COPIES, 9).mean((0, 1)) @ P).item()

    assert (moved("prior") > 0.05) == (g_max < 6)
    assert (moved("reconstruction") > 0.05) == (g_min > -5)
    assert (moved("integral") < -0.05) == (ends != (-7.0, 7.0))


@torch.no_grad()
def test_bounds_of_so_many_steps_fall_to_the_integral():
    """Those of the sampler `ddpm` itself, from 20,000 draws a text over all levels."""
    model = bayes_model(P0)
    ends = bayes_bound()
    rest = P @ (ends.prior + ends.reconstruction.mean(0)).view(COPIES, 9).mean(0)
    found = []
    for num_steps in 4, 16, 64, 256, 4096:
        g = torch.linspace(-5, 6, num_steps + 1, dtype=torch.float64)
        # What a step loses of the signal to noise, as a share of what is left.
        lost = torch.expm1(g.diff())
        draws = max(1, 20_000 // num_steps)
        x0, levels = TEXTS.repeat(draws * num_steps, 1), g[1:].repeat(draws).repeat_interleave(9)
        nats = diffusion_nats(model, x0, levels, seeded()).sum(-1)
        by_step = nats.view(draws, num_steps, 9).mean(0) @ P
        found.append((lost @ by_step + rest).item())
    assert found == sorted(found, reverse=True)
    assert found[0] > 2 * ENTROPY
    assert found[-2] > ENTROPY
    assert found[-1] == pytest.approx(ENTROPY, rel=0.03)


def test_prior_is_the_divergence_of_the_last_level_from_the_normal_distribution():
    for norm in "l2", "layernorm":
        model = random_model(norm=norm, g_max=1.5).double()
        x0 = torch.randint(7, (3, 5), generator=seeded())
        level = model.level(torch.tensor([1.5], dtype=torch.float64))
        e = model.network.vectors()[x0]
        last = torch.distributions.Normal(level.alpha * e, level.sigma)
        normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
        wanted = torch.distributions.kl_divergence(last, normal).sum((1, 2))
        torch.testing.assert_close(prior_nats(model, x0), wanted)


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_each_draw_is_the_formula_at_its_level(share):
    """Nats a unit of g, of the reconstruction, and of what `sedd perturb` prints a unit of time."""
    model = random_model(self_condition=share, g_min=-1.0).double()
    x0 = torch.randint(7, (4, 5), generator=seeded())
    g = torch.tensor([-0.9, 0.0, 1.0, 5.0], dtype=torch.float64)
    for levels in g, torch.full_like(g, -1.0):
        z, e = noised_vectors(model, x0, levels, seeded(3))
        found = model.expect(z, levels, free(4, 5), x0)
        wanted = torch.exp(-levels)[:, None] / (2 * 4) * (e - found.mean).square().sum(-1)
        torch.testing.assert_close(diffusion_nats(model, x0, levels, seeded(3)), wanted)
    reconstructed = draw_reconstruction(model, x0, seeded(3))
    torch.testing.assert_close(reconstructed, found.nats.sum(-1))
    t = 0.4
    noised = method.noised(model, x0[:1], t, seeded(3))
    level, slope = model.clock.g_and_slope(torch.tensor([t], dtype=torch.float64))
    mean, nats = method.position_nats(model, x0[:1], noised, t)
    assert torch.equal(mean, model.expect(noised.state, level, free(1, 5), x0[:1]).mean)
    torch.testing.assert_close(nats, slope * diffusion_nats(model, x0[:1], level, seeded(3)))
    evidence = noised.state @ model.network.vectors().T
    assert torch.equal(noised.xt, evidence.argmax(-1))
    assert f"{(noised.xt != x0[:1]).double().mean().item():.0%}" in noised.facts["another token"]


@pytest.mark.parametrize(("share", "calls"), [(0.0, 1), (0.25, 2)])
def test_a_draw_takes_one_call_and_with_self_conditioning_two(share, calls):
    """It is the bound of the estimate in two passes, and says so."""
    model, seen = random_model(self_condition=share), []
    hidden = model.network.hidden
    model.network.hidden = lambda *given: (seen.append(len(given[0])), hidden(*given))[1]
    found = draw_bound(
        model,
        torch.zeros(7, 5, dtype=torch.int64),
        num_replicates=3,
        num_draws=2,
        batch_size=5,
        seed=0,
    )
    assert seen == ([5] * 3 * calls + [2] * 3 * calls) * 3
    assert found.integral.shape == found.reconstruction.shape == (3, 7)
    assert not found.total.requires_grad
    assert (found.of is None) == (share == 0)


def test_times_are_antithetic_and_stratified_over_each_text(monkeypatch):
    model, seen = bayes_model(P0), []
    monkeypatch.setattr(
        "pipeline.methods.embedding.bound.draw_integral",
        lambda _, x0, t, *__: (seen.append(t), torch.ones(len(x0), dtype=torch.float64))[1],
    )
    found = bound_of(model, TEXTS, num_replicates=1, num_draws=6)
    later, earlier = torch.stack(seen[::2]), torch.stack(seen[1::2])
    assert torch.equal(earlier, 1 - later)
    times = torch.cat([later, earlier])
    assert sorted((times * 54).floor().flatten().tolist()) == list(range(54))
    assert torch.equal(found.integral, torch.ones(1, 9, dtype=torch.float64))


@pytest.mark.parametrize("num_draws", [0, 1, 3])
def test_odd_draws_are_refused(num_draws):
    with pytest.raises(ValueError, match=f"must be even and at least 2 .got {num_draws}."):
        bound_of(bayes_model(P0), TEXTS, num_draws=num_draws)
