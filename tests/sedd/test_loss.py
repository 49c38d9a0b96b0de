import numpy as np
import pytest
import torch
from toy import all_states, toy_config

from pipeline.sedd.loss import (
    ScoreEntropy,
    mask_by_chance,
    masked_cross_entropy,
    score_entropy,
    stratified_times,
)
from pipeline.sedd.model import SEDD


def random_model(graph="absorb", parameterization="conditional", **changes):
    torch.manual_seed(0)
    model = SEDD(toy_config(graph, parameterization, vocab_size=5, length=6, width=16, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


@pytest.mark.parametrize("noise", ["loglinear", "geometric"])
def test_conditional_loss_is_the_score_entropy_of_the_score_it_implies(noise):
    model = random_model(noise=noise, eps=1e-3)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(5, (64, 6), generator=generator)
    t = stratified_times(64, 1e-3, generator)
    sigma, dsigma = model.noise.sigma(t), model.noise.dsigma(t)
    xt = model.graph.sample_transition(x0, sigma, generator)
    log_score = model.log_score(xt, sigma)
    plain = dsigma[:, None] * model.graph.score_entropy(log_score, x0, xt, sigma)
    plain = torch.where(xt == model.graph.mask_id, plain, 0.0)
    torch.testing.assert_close(score_entropy(model, x0, xt, t), plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("graph", "parameterization"),
    [("absorb", "conditional"), ("absorb", "raw"), ("uniform", "raw")],
)
def test_gradient_reaches_every_parameter_that_is_used(graph, parameterization):
    model = random_model(graph, parameterization).train()
    method = ScoreEntropy(model)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(5, (32, 6), generator=generator)
    method.loss(*method.draw(x0, generator)).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_stratified_times_hit_every_interval_once():
    t = stratified_times(1000, 1e-3, torch.Generator().manual_seed(0))
    assert t.min() > 1e-3
    assert t.max() <= 1
    strata = ((1 - t) / (1 - 1e-3) * 1000).floor().long()
    assert sorted(strata.tolist()) == list(range(1000))


def test_stratified_times_are_uniform_over_draws():
    generator = torch.Generator().manual_seed(0)
    first = torch.stack([stratified_times(4, 0.0, generator)[0] for _ in range(4000)])
    assert first.mean().item() == pytest.approx(0.5, abs=4 * (1 / 12 / 4000) ** 0.5)


def test_time_outside_the_unit_interval_is_refused():
    model = random_model()
    x0 = torch.zeros(1, 6, dtype=torch.int64)
    for t in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            score_entropy(model, x0, x0, torch.tensor([t], dtype=torch.float64))


def test_time_independence_of_the_conditional_network():
    names = [name for name, _ in random_model().network.named_parameters()]
    assert not [name for name in names if "sigma" in name or "adaLN" in name]


def test_masked_cross_entropy_has_the_mean_of_the_loss_weighted_by_one_over_the_move_chance():
    """Both means over the move chance and xt, by enumeration of xt and quadrature."""
    model = random_model()
    x0 = torch.tensor([[0, 4, 2, 2, 1, 3]])
    masks = all_states(2, 6).bool()
    xt = torch.where(masks, model.graph.mask_id, x0)
    num_masks = masks.sum(-1).double()
    nodes, weights = np.polynomial.legendre.leggauss(20)
    plain = averaged = 0.0
    rows = x0.expand(len(xt), -1)
    ours = masked_cross_entropy(model, rows, xt)
    nats = -model.log_p(xt).gather(-1, rows[..., None]).squeeze(-1)
    total = torch.where(masks, nats, 0.0).sum(-1)
    for chance, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        probability = chance**num_masks * (1 - chance) ** (6 - num_masks)
        plain += weight * (probability * total / chance).sum().item()
        averaged += weight * (probability * ours).sum().item()
    assert averaged == pytest.approx(plain, rel=1e-12)


def test_masks_come_with_the_chance_of_their_row():
    model = random_model()
    x0 = torch.zeros(5000, 6, dtype=torch.int64)
    chances = torch.linspace(0, 1, 5000, dtype=torch.float64)
    xt = mask_by_chance(model, x0, chances, torch.Generator().manual_seed(0))
    is_mask = (xt == model.graph.mask_id).double()
    assert is_mask.mean().item() == pytest.approx(0.5, abs=4 * (0.25 / 30_000) ** 0.5)
    assert is_mask[:50].mean() < 0.05
    assert is_mask[-50:].mean() > 0.95
