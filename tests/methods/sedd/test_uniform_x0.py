"""The uniform graph by x0: its score, loss and step against their definitions."""

import pytest
import torch
from chains import draw, small_support, transformer
from corrected import corrected_law, denoiser, step_by_definition
from toy import all_states, check_law, entropy_of, exact_model, index_of, rates_of, total_variation

from pipeline.methods.draws import Sharpening
from pipeline.methods.samplers import PLAIN
from pipeline.methods.sedd import uniform_x0
from pipeline.methods.sedd.graph import sample_transition
from pipeline.methods.sedd.loss import score_entropy
from pipeline.methods.sedd.weights import step_weights

SIGMAS = [1e-4, 0.02, 0.7, 5.0, 20.0]


def random_model():
    return transformer(4, "uniform", "conditional", eps=1e-3)


def at_random(model, num=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(7, (2, num, model.length), generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_score_is_what_p_x0_implies(sigma):
    """s(y) = sum over x0 of p(x0 | xt) p(y | x0) / p(xt | x0)."""
    model = random_model()
    xt, _ = at_random(model)
    sigma = torch.tensor(sigma, dtype=torch.float64)
    p = denoiser(model, xt, sigma)
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p[..., 0]))
    chances = torch.matrix_exp(sigma * rates_of(model.graph))
    implied = (p / chances.T[xt]) @ chances
    score = model.log_score(xt, sigma.expand(len(xt))).exp()
    torch.testing.assert_close(score, implied, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(uniform_x0.score(p, xt, sigma), implied, rtol=1e-9, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("noise", ["loglinear", "geometric"])
def test_the_loss_is_the_score_entropy_of_the_score_it_implies(noise):
    model = transformer(4, "uniform", "conditional", noise=noise, eps=1e-3)
    x0, other = at_random(model, 200)
    generator = torch.Generator().manual_seed(1)
    t = torch.rand(200, dtype=torch.float64, generator=generator).clamp(min=1e-3)
    sigma = model.noise.sigma(t)
    for xt in (sample_transition(model.graph, x0, sigma, generator), x0, other):
        entropy, _ = entropy_of(model.graph, model.log_score(xt, sigma), x0, xt, sigma)
        plain = model.noise.dsigma(t)[:, None] * entropy
        ours = score_entropy(model, x0, xt, t).positions
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("confident", [0.0, 6.0])
@pytest.mark.parametrize("t", [1e-3, 0.1, 0.9, 1 - 1e-3])
def test_the_loss_and_its_gradient_keep_their_digits_in_float32(t, confident):
    """At both ends of time, from a network that is unsure and from one that knows x0."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(27, (400,), generator=generator)
    xt = torch.where(torch.rand(400, generator=generator) < 0.5, x0, (x0 + 3) % 27)
    outputs = torch.randn(400, 27, generator=generator)
    outputs[torch.arange(400), x0] += confident
    sigma = -torch.log1p(torch.tensor(-0.999 * t, dtype=torch.float64)).expand(400)
    found = []
    for dtype in torch.float32, torch.float64:
        made, weight = outputs.clone().to(dtype), torch.ones(400, dtype=dtype)
        at = (slice(0, 27), x0, xt, sigma.to(torch.float32).to(dtype), weight, weight)
        found.append((uniform_x0.score_entropy_(made, *at).double(), made.double()))
    (ours, by_outputs), (exact, exact_by_outputs) = found
    torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-12)
    largest = exact_by_outputs.abs().amax(-1, keepdim=True)
    assert ((by_outputs - exact_by_outputs).abs() / largest).max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kappa", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("ends", [(0.7, 0.3), (8.0, 1.0), (0.01, 0.0), (0.5, 0.5)])
def test_a_step_is_the_mean_over_x0_of_its_definition(ends, kappa):
    model = random_model()
    xt, _ = at_random(model)
    sigma, after = torch.tensor(ends, dtype=torch.float64)
    p = denoiser(model, xt, sigma)
    ours = uniform_x0.corrected(p, xt, sigma, after, kappa)
    expected = step_by_definition(model, p, xt, sigma, after, kappa)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_the_analytic_step_is_tweedies_of_the_implied_score():
    model = random_model()
    xt, _ = at_random(model)
    t, next_t = torch.tensor([0.6, 0.45], dtype=torch.float64)
    sigma = model.noise.sigma(t)
    score = model.log_score(xt, sigma.expand(len(xt))).exp()
    change = (sigma - model.noise.sigma(next_t)).expand(len(xt))
    tweedie = model.graph.staggered_score(score, change)
    tweedie = tweedie * model.graph.transposed_transition(xt, change)
    ours = step_weights(model, xt, t, next_t, "analytic")
    torch.testing.assert_close(ours, tweedie, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sharp", [(0.5, 1.0), (1.0, 0.6), (2.0, 0.8)])
def test_sharpened_samples_follow_the_chain_of_the_sharpened_denoiser(sharp):
    model, _ = small_support("uniform", "conditional")
    law = corrected_law(model, 3, PLAIN, change=Sharpening(3, *sharp))
    temperature, top_p = sharp
    samples = draw(model, 3, "analytic", temperature=temperature, top_p=top_p)
    check_law(index_of(samples.tokens, 3), law)
    assert total_variation(law, corrected_law(model, 3, PLAIN)) > 0.05


def test_the_exact_network_gives_the_exact_score():
    """What the enumerations of this parameterisation trust."""
    by_x0, raw = (exact_model("uniform", kind, length=3)[0] for kind in ("conditional", "raw"))
    states = all_states(3, 3)
    for sigma in SIGMAS[1:]:
        row = torch.full((len(states),), sigma, dtype=torch.float64)
        torch.testing.assert_close(
            by_x0.log_score(states, row), raw.log_score(states, row), rtol=1e-7, atol=1e-9
        )
