"""The plain formulation against enumeration, and against the product's proven formulas."""

import numpy as np
import pytest
import torch
from toy import rates_of

from benchmarks.plain import (
    absorb_entropy,
    plain_bound,
    plain_conditional_loss,
    plain_draw,
    plain_log_p,
    plain_log_score,
    plain_model,
    plain_sample,
    plain_score_entropy,
    plain_weights,
    uniform_entropy,
)
from pipeline.methods.sedd.bound import draw_bound
from pipeline.methods.sedd.graph import Absorb, Uniform, sample_transition
from pipeline.methods.sedd.model import SEDD, SEDDConfig
from pipeline.methods.sedd.weights import denoise_weights, step_weights

VARIANTS = [("absorb", "raw"), ("absorb", "conditional"), ("uniform", "raw")]


def tiny_config(graph: str, parameterization: str) -> SEDDConfig:
    return SEDDConfig(
        graph=graph,  # type: ignore[arg-type]
        noise="loglinear",
        parameterization=parameterization,  # type: ignore[arg-type]
        vocab_size=5,
        length=4,
        width=8,
        num_blocks=2,
        num_heads=2,
        cond_dim=4,
        dropout=0.0,
        eps=1e-3,
        sigma_min=None,
        sigma_max=None,
        t_min=1e-3,
    )


def both(graph: str, parameterization: str) -> tuple[SEDD, SEDD]:
    """The product's model and the plain one with the same random weights, float64."""
    config = tiny_config(graph, parameterization)
    torch.manual_seed(0)
    ours, plain = SEDD(config).double(), plain_model(config).double()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    plain.network.load_state_dict(ours.network.state_dict())
    return ours, plain


def noised(model: SEDD, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randint(5, (6, 4), generator=generator)
    t = torch.linspace(0.1, 0.95, 6, dtype=torch.float64)
    return x0, sample_transition(model.graph, x0, model.noise.sigma(t), generator), t


@pytest.mark.parametrize(("graph", "parameterization"), VARIANTS)
def test_the_plain_network_is_the_product_s(graph, parameterization):
    ours, plain = both(graph, parameterization)
    _, xt, t = noised(ours)
    sigma = ours.noise.sigma(t)
    if parameterization == "conditional":
        expected, found = ours.log_p(xt), plain_log_p(plain, xt)
    else:
        expected, found = ours.log_score(xt, sigma), plain_log_score(plain, xt, sigma)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("graph", "entropy"), [(Absorb(4), absorb_entropy), (Uniform(4), uniform_entropy)]
)
def test_score_entropy_is_the_sum_over_states(graph, entropy):
    sigma = 0.7
    transition = torch.matrix_exp(sigma * rates_of(graph))
    log_score = torch.randn(1, 1, 4, dtype=torch.float64)
    for start in range(3):
        for now in range(4):
            if not transition[start, now]:
                continue
            expected = 0.0
            for state in set(range(4)) - {now}:
                ratio = float(transition[start, state] / transition[start, now])
                constant = ratio * (np.log(ratio) - 1) if ratio else 0.0
                here = float(log_score[0, 0, state])
                weight = float(rates_of(graph)[state, now])
                expected += weight * (np.exp(here) - ratio * here + constant)
            x0, xt = torch.tensor([[start]]), torch.tensor([[now]])
            found = entropy(log_score, x0, xt, torch.tensor([[sigma]], dtype=torch.float64))
            assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_conditional_losses_weigh_the_cross_entropy_at_masks():
    _, plain = both("absorb", "conditional")
    x0, xt, t = noised(plain)
    nats = -plain_log_p(plain, xt).gather(-1, x0[..., None]).squeeze(-1) * (xt == 5)
    masks = (xt == 5).sum(-1)
    torch.testing.assert_close(
        plain_conditional_loss(plain, x0, xt), 5 / masks.clamp(min=1) * nats.sum(-1)
    )
    sigma, dsigma = plain.noise.sigma(t), plain.noise.dsigma(t)
    torch.testing.assert_close(
        plain_score_entropy(plain, x0, xt, t), (dsigma / torch.expm1(sigma))[:, None] * nats
    )


@pytest.mark.parametrize(("graph", "parameterization"), VARIANTS)
def test_the_weights_of_a_step_are_the_product_s(graph, parameterization):
    ours, plain = both(graph, parameterization)
    _, xt, _ = noised(ours)
    t, next_t = torch.tensor([0.6, 0.4], dtype=torch.float64)
    for expected, found in (
        (step_weights(ours, xt, t, next_t, "analytic"), plain_weights(plain, xt, t, next_t)),
        (denoise_weights(ours, xt, t), plain_weights(plain, xt, t, None)),
    ):
        found = found[..., : expected.shape[-1]]
        torch.testing.assert_close(
            found / found.sum(-1, keepdim=True), expected / expected.sum(-1, keepdim=True)
        )


def test_the_draw_has_the_chances_of_its_weights():
    weights = torch.tensor([0.0, 1.0, 2.0, 5.0])
    drawn = plain_draw(weights.expand(1, 40_000, 4), torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn.flatten(), minlength=4)
    assert counts[0] == 0
    torch.testing.assert_close(counts / 40_000, weights / 8, atol=0.01, rtol=0)


@pytest.mark.parametrize(("graph", "parameterization"), VARIANTS)
def test_samples_are_clean(graph, parameterization):
    _, plain = both(graph, parameterization)
    drawn = plain_sample(plain, 3, 4, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 4)
    assert int(drawn.max()) < 5


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_the_bound_is_the_products_on_average(graph):
    ours, plain = both(graph, "raw")
    x0 = torch.tensor([[0, 3, 1, 4]]).expand(6_000, 4)
    generator = torch.Generator().manual_seed(0)
    found = plain_bound(plain, x0, 2, 6_000, generator)
    bound = draw_bound(ours, x0, num_replicates=1, num_draws=2, batch_size=6_000, seed=0)
    expected = (bound.integral + bound.reconstruction)[0]
    stderr = torch.stack([found, expected]).std(-1).square().sum().div(6_000).sqrt()
    assert stderr < 0.05 * expected.mean()
    assert (found.mean() - expected.mean()).abs() < 4 * stderr
