"""A step of each sampler, by what it makes of Gaussian data, and by the nats that it costs."""

import itertools
import math
from typing import get_args

import pytest
import torch
from embedding_toy import seeded

from pipeline.methods.embedding.sampler import Predictor, moved
from pipeline.methods.embedding.vectors import Level
from pipeline.methods.embedding.vectors import gaussian as standard_normal

VARIANCE = 0.25


def levels(num_steps):
    """Of numbers, from noise to data, all in float64."""
    g = torch.linspace(9, -7, num_steps + 1, dtype=torch.float64)
    return [Level.at(each[None], 1) for each in g]


def gaussian(level):
    """Factor k of the mean, and variance, of numbers of variance VARIANCE given z: mean k z."""
    alpha, sigma = level.alpha.item(), level.sigma.item()
    noised = alpha**2 * VARIANCE + sigma**2
    return alpha * VARIANCE / noised, VARIANCE * sigma**2 / noised


def variance_after(rule, num_steps):
    """That of z, by the recursion in closed form."""
    variance = 1.0
    for now, after in itertools.pairwise(levels(num_steps)):
        (k, left), a, s = gaussian(now), now.alpha.item(), now.sigma.item()
        next_a, next_s = after.alpha.item(), after.sigma.item()
        if rule == "ddim":
            variance *= (next_a * k + next_s / s * (1 - a * k)) ** 2
            continue
        if rule == "mean and fresh noise":
            variance = (next_a * k) ** 2 * variance + next_s**2
            continue
        # The posterior of z' given z and x, from their joint: variances, then Bayes' formula.
        ratio = a / next_a
        added = s**2 - ratio**2 * next_s**2
        precision = ratio**2 / added + 1 / next_s**2
        of_z, of_x = ratio / added / precision, next_a / next_s**2 / precision
        spread = left if rule == "draw" else 0.0
        variance = (of_z + of_x * k) ** 2 * variance + of_x**2 * spread + 1 / precision
    return variance


@pytest.mark.parametrize("rule", get_args(Predictor))
@pytest.mark.parametrize("num_steps", [1, 4, 32])
def test_steps_have_the_variance_of_their_recursion(rule, num_steps):
    """Of Gaussian data and its own denoiser; within 4 standard errors, from 100,000 numbers."""
    generator = seeded()
    z = torch.randn(1, 100_000, 1, generator=generator)
    for now, after in itertools.pairwise(levels(num_steps)):
        k, left = gaussian(now)
        target = k * z
        if rule == "draw":
            target = target + left**0.5 * torch.randn(z.shape, generator=generator)
        z = moved(z, target, now, after, rule, generator)
        assert z.dtype == torch.float32
    bar = 4 * math.sqrt(2 / 100_000)
    assert z.var().item() == pytest.approx(variance_after(rule, num_steps), rel=bar)


@pytest.mark.parametrize("rule", [*get_args(Predictor), "mean and fresh noise"])
def test_variances_converge_as_one_over_the_steps_but_for_a_wrong_rule(rule):
    a, s = levels(1)[-1].alpha.item(), levels(1)[-1].sigma.item()
    wanted = a**2 * VARIANCE + s**2
    gaps = [variance_after(rule, num_steps) - wanted for num_steps in (512, 1024, 2048)]
    if rule == "mean and fresh noise":
        assert max(gaps) < -VARIANCE / 4
        return
    if rule == "draw":
        # A draw from the posterior of Gaussian data has no error at all.
        assert max(map(abs, gaps)) < 1e-8
        return
    assert abs(gaps[-1]) < 0.01 * VARIANCE
    for gap, half in itertools.pairwise(gaps):
        assert half == pytest.approx(gap / 2, rel=0.1)


def test_one_ddpm_step_from_noise_to_data_is_around_what_is_expected():
    """Its law is that of data noised anew, but for what the noise at the start still tells."""
    first, last = (Level.at(torch.tensor([g], dtype=torch.float64), 1) for g in (12.0, 0.0))
    z, mean = torch.randn(1, 100_000, 1, generator=seeded(1)), torch.full((1, 100_000, 1), 3.0)
    after = moved(z, mean, first, last, "ddpm", seeded())
    alpha, sigma = last.alpha.item(), last.sigma.item()
    assert after.mean().item() == pytest.approx(3 * alpha, abs=4 * sigma / 100_000**0.5 + 1e-4)
    assert after.std().item() == pytest.approx(sigma, rel=4 / 200_000**0.5)


def test_a_ddpm_step_diverges_from_the_posterior_by_the_nats_of_the_bound():
    """Half of the squared error times what it loses of the signal to noise; `draw`'s is alike."""
    now, after = (Level.at(torch.tensor([g], dtype=torch.float64), 1) for g in (1.0, 0.3))
    shape, zeros = (1, 50, 1), torch.zeros(1, 50, 1, dtype=torch.float64)
    truth, mean = (torch.randn(shape, generator=seeded(i), dtype=torch.float64) for i in (1, 2))
    of_truth, of_mean, noise = (
        moved(zeros, x, now, after, "ddpm", seeded()) for x in (truth, mean, zeros)
    )
    assert torch.equal(moved(zeros, truth, now, after, "draw", seeded()), of_truth)
    spread = noise / standard_normal(shape, seeded())
    divergence = ((of_truth - of_mean) / spread).square() / 2
    wanted = (after.snr - now.snr) / 2 * (truth - mean).square()
    torch.testing.assert_close(divergence, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_steps", [10_000, 130_000_000])
def test_small_steps_lose_no_noise_in_float32(num_steps):
    """c is computed before it is rounded: of the larger number 1 less a ratio is 30 % too small."""
    now, after = (
        Level.at(torch.tensor([g], dtype=torch.float64), 32) for g in (-4.0, -4.0 - 11 / num_steps)
    )
    zeros = torch.zeros(1, 100_000, 1)
    noise = moved(zeros, zeros, now, after, "ddpm", seeded())
    wanted = after.sigma.item() * math.sqrt(11 / num_steps)
    assert noise.std().item() == pytest.approx(wanted, rel=4 / 200_000**0.5)
