"""Vectors, noise levels, and what a noised vector says of its token."""

import math

import pytest
import torch
import torch.nn.functional as F
from embedding_toy import seeded

from pipeline.methods.embedding.vectors import Level, Vectors, gaussian

V, DIM = 5, 6
G = torch.linspace(-8, 8, 9, dtype=torch.float64)
both_norms = pytest.mark.parametrize("norm", ["l2", "layernorm"])


def vectors(norm, scale=1.0):
    torch.manual_seed(0)
    made = Vectors(V, DIM, norm).double()
    with torch.no_grad():
        made.weight *= scale
    return made


def test_weights_begin_as_normal_numbers():
    """Powers of 30,000 of them have the moments of these, within 4 standard errors."""
    torch.manual_seed(0)
    weight = Vectors(1000, 30, "l2").weight.detach()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        found = weight.pow(power).mean().item()
        assert found == pytest.approx(moment, abs=4 * math.sqrt(variance / 30_000))


@both_norms
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_all_have_the_squared_length_d_whatever_their_weights(norm, scale):
    made = vectors(norm, scale)().detach()
    lengths = made.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, DIM**0.5), rtol=1e-9, atol=0)
    assert torch.allclose(made, vectors(norm)(), rtol=1e-9)


def test_layernorm_is_that_without_weights():
    made = vectors("layernorm", 1e-3)
    torch.testing.assert_close(made(), F.layer_norm(made.weight, (DIM,), eps=1e-20))


@both_norms
def test_a_gradient_does_not_change_what_the_norm_takes_out(norm):
    """Of any loss: it is orthogonal to the weights, and has no mean where that is taken out."""
    made = vectors(norm)
    (made() * torch.randn(V, DIM, generator=seeded(), dtype=torch.float64)).sum().backward()
    along = (made.weight.grad * made.weight).sum(-1)
    torch.testing.assert_close(along, torch.zeros(V, dtype=torch.float64))
    mean = made.weight.grad.mean(-1)
    assert made.weight.grad.abs().min() > 1e-4
    assert (mean.abs().max() < 1e-12) == (norm == "layernorm")


@pytest.mark.parametrize("dim", [1, DIM, 768])
def test_levels_preserve_variance_and_g_is_that_of_a_whole_vector(dim):
    level = Level.at(G, dim)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones_like(G))
    torch.testing.assert_close(level.snr, level.alpha**2 / level.sigma**2)
    torch.testing.assert_close(level.snr * dim, torch.exp(-G))
    torch.testing.assert_close(level.evidence, level.alpha / level.sigma**2)
    c_skip = torch.exp((F.softplus(-level.gamma) - level.gamma) / 2)
    torch.testing.assert_close(level.evidence, c_skip)


@pytest.mark.parametrize("equal", [True, False])
def test_evidence_is_the_posterior_of_a_vector_by_its_density(equal):
    """For equal lengths without a term of theirs; for others with it, and wrong without."""
    generator = seeded()
    e = vectors("l2")().detach()
    if not equal:
        e = e * torch.linspace(0.5, 1.5, V, dtype=torch.float64)[:, None]
    z = torch.randn(len(G), DIM, dtype=torch.float64, generator=generator)
    prior = torch.randn(V, dtype=torch.float64, generator=generator).log_softmax(0)
    level = Level.at(G / 2, DIM)
    density = torch.distributions.Normal(level.alpha[:, None, None] * e, level.sigma[:, None, None])
    wanted = (prior + density.log_prob(z[:, None]).sum(-1)).softmax(-1)
    logits = prior + level.evidence[:, None] * z @ e.T
    lengths = level.alpha[:, None] ** 2 * (e**2).sum(-1) / (2 * level.sigma[:, None] ** 2)
    torch.testing.assert_close((logits - lengths).softmax(-1), wanted)
    assert torch.allclose(logits.softmax(-1), wanted) == equal


def test_noised_vectors_have_the_moments_of_their_level():
    """Within 4 standard errors, from 40,000 numbers a row."""
    g = torch.tensor([-4.0, 0.0, 4.0])
    e = torch.full((3, 10_000, 4), 2.0)
    level = Level.at(g, 4)
    z = level.noised(e, torch.randn(e.shape, generator=seeded()))
    for row, alpha, sigma in zip(z, level.alpha, level.sigma, strict=True):
        assert row.mean().item() == pytest.approx(2 * alpha.item(), abs=4 * sigma.item() / 200)
        assert row.std().item() == pytest.approx(sigma.item(), rel=4 / math.sqrt(80_000))


@pytest.mark.parametrize("g", [-40.0, -5.0, 40.0])
def test_float32_holds_a_token_of_any_level(g):
    level = Level.at(torch.full((V,), g), DIM)
    e = vectors("l2")().detach().float()[:, None]
    noise = torch.randn(e.shape, generator=seeded())
    z = level.noised(e, noise)
    alpha, sigma = (each[:, None, None] for each in (level.alpha, level.sigma))
    wide = alpha * e.double() + sigma * noise.double()
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.double(), wide, rtol=1e-5, atol=1e-6)
    evidence = level.evidence.float()[:, None] * z.squeeze(1) @ e.squeeze(1).T
    assert evidence.isfinite().all()
    assert g > 0 or bool((evidence.argmax(-1) == torch.arange(V)).all())


def test_noise_of_a_seed_is_not_the_vectors_that_it_made():
    """Of the cosines of 58 pairs of 32 numbers, the largest is some 0.5 by chance."""
    torch.manual_seed(0)
    made = Vectors(58, 32, "l2").weight.detach()
    noise = gaussian((58, 32), torch.Generator().manual_seed(0))
    assert F.cosine_similarity(made, noise).abs().max() < 0.7
    assert noise.dtype == torch.float32
    assert noise.std().item() == pytest.approx(1, abs=0.1)
