import numpy as np
import pytest
import torch
from toy import all_states, entropy_of, random_model

from pipeline.methods.estimates import stratified_times
from pipeline.methods.sedd.graph import moved_by_chance, sample_transition
from pipeline.methods.sedd.loss import (
    ScoreEntropy,
    masked_cross_entropy,
    score_entropy,
)


def a_model(graph="absorb", parameterization="conditional", **changes):
    sizes = {"vocab_size": 5, "length": 6, "width": 16}
    return random_model(graph, parameterization, **sizes, **changes).double()


@pytest.mark.parametrize("noise", ["loglinear", "geometric"])
def test_conditional_loss_is_the_score_entropy_of_the_score_it_implies(noise):
    model = a_model(noise=noise, eps=1e-3)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(5, (64, 6), generator=generator)
    t = stratified_times(64, 1e-3, generator)
    sigma, dsigma = model.noise.sigma(t), model.noise.dsigma(t)
    xt = sample_transition(model.graph, x0, sigma, generator)
    log_score = model.log_score(xt, sigma)
    plain = dsigma[:, None] * entropy_of(model.graph, log_score, x0, xt, sigma)[0]
    plain = torch.where(xt == model.graph.mask_id, plain, 0.0)
    ours = score_entropy(model, x0, xt, t).positions
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eps", [1e-3, 0.3, 0.9])
def test_conditional_loss_is_cross_entropy_over_t_whatever_the_eps(eps):
    model = a_model(eps=eps)
    t = torch.tensor([1e-6, 0.25, 0.5, 1.0], dtype=torch.float64)
    x0 = torch.randint(5, (4, 6), generator=torch.Generator().manual_seed(0))
    xt = x0.clone()
    xt[:, ::2] = model.graph.mask_id
    nats = -model.log_p(xt).gather(-1, x0[..., None]).squeeze(-1)
    expected = torch.where(xt == model.graph.mask_id, nats, 0.0) / t[:, None]
    ours = score_entropy(model, x0, xt, t).positions
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=0)


def plain_loss(model, x0, xt, t):
    """SEDD eq. 10 as it is printed, over all [B, L, V] log scores: loss [B, L].

    sum over y != xt of Q(y -> xt) dsigma (s(y) - r(y) log s(y) + K(r(y))), with r(y) =
    p(y | x0) / p(xt | x0) and K(a) = a (log a - 1); transitions by the matrix exponential.
    """
    num_states = model.graph.num_states
    absorb = model.config.graph == "absorb"
    rate = -torch.eye(num_states, dtype=torch.float64)
    rate += torch.eye(num_states)[-1] if absorb else 1 / num_states
    t = t.requires_grad_()
    sigma = model.noise.sigma(t)
    (dsigma,) = torch.autograd.grad(sigma.sum(), t)
    sigma = sigma.detach()
    by_x0 = model.config.parameterization == "conditional"
    if by_x0 and not absorb:
        pi = model.network(xt, sigma).softmax(-1)
    elif by_x0:
        log_score = model.network(xt).log_softmax(-1) - sigma.expm1().log()[:, None, None]
        # No score is needed of the mask itself: nothing goes from it to anywhere.
        log_score = torch.cat([log_score, torch.zeros_like(log_score[..., :1])], -1)
    else:
        log_score = model.network(xt, sigma)
        if absorb:
            scale = sigma.expm1().log() + np.log(num_states - 1)
            log_score = log_score - scale[:, None, None]
    rows = []
    for row in range(len(x0)):
        chances = torch.matrix_exp(sigma[row] * rate)
        for place in range(x0.shape[1]):
            start, end = x0[row, place], xt[row, place]
            ratio = chances[start] / chances[start, end]
            if by_x0 and not absorb:
                # p(x0 | xt), and the score that it implies, by their definitions.
                p = pi[row, place] * chances[:, end]
                log_s = ((p / p.sum() / chances[:, end]) @ chances).log()
            else:
                log_s = log_score[row, place]
            terms = log_s.exp() - ratio * log_s + torch.xlogy(ratio, ratio) - ratio
            away = torch.arange(num_states) != end
            rows.append(dsigma[row] * (rate[:, end] * terms)[away].sum())
    return torch.stack(rows).view(x0.shape)


def assert_same_gradients(model, ours, plain):
    """Every parameter's, to 1e-10 of its largest entry."""
    parameters = dict(model.named_parameters())
    gradients = [
        torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
        for loss in (ours, plain)
    ]
    for name, mine, theirs in zip(parameters, *gradients, strict=True):
        assert theirs.abs().max() > 0, name
        error = (mine - theirs).abs().max() / theirs.abs().max()
        assert error <= 1e-10, (name, error.item())


@pytest.mark.parametrize("noise", ["loglinear", "geometric"])
@pytest.mark.parametrize(
    ("graph", "parameterization"),
    [("absorb", "conditional"), ("absorb", "raw"), ("uniform", "raw"), ("uniform", "conditional")],
)
def test_loss_and_its_gradient_are_those_of_the_plain_formulation(graph, parameterization, noise):
    model = a_model(graph, parameterization, noise=noise, eps=1e-3, scale_by_sigma=True)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(5, (12, 6), generator=generator)
    t = stratified_times(12, 0.05, generator)
    xt = sample_transition(model.graph, x0, model.noise.sigma(t), generator)
    ours, plain = score_entropy(model, x0, xt, t), plain_loss(model, x0, xt, t)
    torch.testing.assert_close(ours.positions, plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.total, plain.sum(), rtol=1e-9, atol=0)
    assert_same_gradients(model, ours.total, plain.sum())


@pytest.mark.parametrize("noise", ["loglinear", "geometric"])
def test_gradient_of_the_masked_cross_entropy_is_that_of_the_plain_formulation(noise):
    """In the mean over xt and the move chance, by enumeration and quadrature, on any schedule."""
    ends = {"eps": 1e-9, "sigma_min": 1e-9, "sigma_max": 21.0}
    model = a_model(noise=noise, **ends)
    x0 = torch.tensor([[0, 4, 2, 2, 1, 3]])
    masks = all_states(2, 6).bool()[1:]
    xt = torch.where(masks, model.graph.mask_id, x0)
    num_masks = masks.sum(-1).double()
    rows = x0.expand(len(xt), -1)
    plain = torch.zeros((), dtype=torch.float64)
    weight_of_row = torch.zeros(len(xt), dtype=torch.float64)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    for chance, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        chances = weight * chance**num_masks * (1 - chance) ** (6 - num_masks)
        weight_of_row += chances
        t, slope = time_of(model.noise, chance)
        losses = plain_loss(model, rows, xt, t.expand(len(xt)).clone()).sum(-1)
        plain = plain + (chances / slope * losses).sum()
    nats = [masked_cross_entropy(model, x0, noised[None]).total for noised in xt]
    ours = weight_of_row @ torch.stack(nats)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-8)
    assert_same_gradients(model, ours, plain)


def time_of(noise, move_chance):
    """When the move chance is reached, and its slope there."""
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = torch.tensor((low + high) / 2, dtype=torch.float64)
        reached = -torch.expm1(-noise.sigma(middle)) >= move_chance
        low, high = (low, middle.item()) if reached else (middle.item(), high)
    middle.requires_grad_()
    (slope,) = torch.autograd.grad(-torch.expm1(-noise.sigma(middle)), middle)
    return middle.detach(), slope


@pytest.mark.parametrize(
    ("graph", "parameterization"),
    [("absorb", "conditional"), ("absorb", "raw"), ("uniform", "raw"), ("uniform", "conditional")],
)
def test_gradient_reaches_every_parameter_that_is_used(graph, parameterization):
    model = a_model(graph, parameterization).train()
    method = ScoreEntropy(model)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(5, (32, 6), generator=generator)
    method.loss(*method.draw(x0, generator)).backward()
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
    model = a_model()
    x0 = torch.zeros(1, 6, dtype=torch.int64)
    for t in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            score_entropy(model, x0, x0, torch.tensor([t], dtype=torch.float64))


def test_time_independence_of_the_conditional_network():
    names = [name for name, _ in a_model().network.named_parameters()]
    assert not [name for name in names if "sigma" in name or "adaLN" in name]


def test_masked_cross_entropy_has_the_mean_of_the_loss_weighted_by_one_over_the_move_chance():
    """Both means over the move chance and xt, by enumeration of xt and quadrature."""
    model = a_model()
    x0 = torch.tensor([[0, 4, 2, 2, 1, 3]])
    masks = all_states(2, 6).bool()
    xt = torch.where(masks, model.graph.mask_id, x0)
    num_masks = masks.sum(-1).double()
    nodes, weights = np.polynomial.legendre.leggauss(20)
    plain = averaged = 0.0
    rows = x0.expand(len(xt), -1)
    ours = masked_cross_entropy(model, rows, xt).positions.sum(-1)
    nats = -model.log_p(xt).gather(-1, rows[..., None]).squeeze(-1)
    total = torch.where(masks, nats, 0.0).sum(-1)
    for chance, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        probability = chance**num_masks * (1 - chance) ** (6 - num_masks)
        plain += weight * (probability * total / chance).sum().item()
        averaged += weight * (probability * ours).sum().item()
    assert averaged == pytest.approx(plain, rel=1e-12)


def test_masks_come_with_the_chance_of_their_row():
    model = a_model()
    x0 = torch.zeros(5000, 6, dtype=torch.int64)
    chances = torch.linspace(0, 1, 5000, dtype=torch.float64)
    xt = moved_by_chance(model.graph, x0, chances, torch.Generator().manual_seed(0))
    is_mask = (xt == model.graph.mask_id).double()
    assert is_mask.mean().item() == pytest.approx(0.5, abs=4 * (0.25 / 30_000) ** 0.5)
    assert is_mask[:50].mean() < 0.05
    assert is_mask[-50:].mean() > 0.95
