"""What a step of training draws: times, weights, estimates, noise; and its loss on average."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from embedding_toy import drawn_for, objective_of, random_model, seeded

from pipeline.methods.draws import FREE
from pipeline.methods.embedding.loss import Denoising

ROWS = 24


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 64])
def test_likelihood_has_one_row_in_sixteen_for_the_reconstruction(rows):
    """Each part is divided by its own number of rows: their sum is the bound's."""
    objective = objective_of(loss="likelihood", known=0.0)
    _, _, t, scale, _, _ = drawn_for(objective, rows)
    first = math.ceil(rows / 16)
    assert not t[:first].any()
    assert ((t[first:] > 0) & (t[first:] <= 1)).all()
    strata = ((1 - t[first:]) * (rows - first)).floor()
    assert sorted(strata.tolist()) == list(range(rows - first))
    assert scale[:first].sum().item() == pytest.approx(rows)
    assert rows == first or scale[first:].sum().item() == pytest.approx(rows)
    assert len(scale[:first].unique()) == 1
    assert len(scale[first:].unique()) <= 1


@pytest.mark.parametrize("loss", ["cross_entropy", "half", "mse_cross_entropy"])
def test_other_losses_have_stratified_times_and_count_all_rows_alike(loss):
    objective = objective_of(loss=loss, known=0.0)
    _, known, t, scale, _, noise = drawn_for(objective)
    assert sorted(((1 - t) * ROWS).floor().tolist()) == list(range(ROWS))
    assert torch.equal(scale, torch.ones(ROWS))
    assert bool((known == FREE).all())
    assert noise.shape == (ROWS, 5, 4)


def test_noise_is_normal_and_each_numbers_own():
    """By its moments and products of neighbours, within 4 standard errors of 20,000 numbers."""
    noise = drawn_for(objective_of(), 1000)[5]
    products = [noise * noise.roll(1, axis) for axis in range(3)]
    for found, mean, variance in (
        (noise, 0, 1),
        (noise**2, 1, 2),
        (noise**4, 3, 96),
        *((each, 0, 1) for each in products),
    ):
        bar = 4 * math.sqrt(variance / noise.numel())
        assert found.mean().item() == pytest.approx(mean, abs=bar)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_rows_gets_an_estimate_first(share):
    """Within 4 standard errors, of 4,000 rows."""
    objective = objective_of(self_condition=share)
    drawn = drawn_for(objective, 4000)
    estimated = drawn[4]
    bar = 4 * math.sqrt(share * (1 - share) / 4000)
    assert estimated.double().mean().item() == pytest.approx(share, abs=bar)
    assert torch.equal(objective.located(*drawn)[6], estimated.nonzero().squeeze(-1))


def test_mean_of_the_likelihoods_loss_and_gradient_is_that_of_the_exact_bound():
    """Of three tokens alone in their text, by quadrature; within 4 standard errors of 64 batches.

    The network hands z on, and no head of z is right: so the gradient by the vectors, through z,
    evidence, target and mean, is none of 0.
    """
    model = random_model(
        vocab_size=3,
        length=1,
        dim=2,
        g_min=-1.0,
        g_max=4.0,
        loss="likelihood",
        known=0.0,
        self_condition=0.0,
    )
    network = model.network
    network.hidden = lambda z, *_: F.pad(4 * z, (0, model.config.width - 2))
    leaves = network.head.weight, network.head.bias, network.vectors.weight
    exact = bound_by_quadrature(model)
    wanted = [exact, *torch.autograd.grad(exact, leaves)]
    objective, generator = Denoising(model), seeded()
    x0 = torch.arange(3).repeat(5000)[:, None]
    batches = []
    for _ in range(64):
        drawn = objective.draw(x0[torch.randperm(15000, generator=generator)], generator)
        loss = objective.loss(*drawn) / 15_000
        batches.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for found, expected in zip(zip(*batches, strict=True), wanted, strict=True):
        replicates = torch.stack(found).double()
        stderr = replicates.std(0) / 8
        assert stderr.max() < 0.1 * expected.abs().max()
        assert bool(((replicates.mean(0) - expected).abs() <= 4 * stderr + 1e-6).all())


def bound_by_quadrature(model):
    """Integral and reconstruction, in the mean over the three tokens."""
    head, table = model.network.head, model.network.vectors().double()
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(24))
    noise = torch.cartesian_prod(nodes, nodes)
    mass = torch.cartesian_prod(weights, weights).prod(-1) / (2 * math.pi)
    steps, spans = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(40))
    low, high = model.config.g_min, model.config.g_max
    g = torch.cat([(low + high) / 2 + (high - low) / 2 * steps, torch.tensor([low])])
    gamma = (g + math.log(2))[:, None, None, None]
    alpha, sigma = (-gamma).sigmoid().sqrt(), gamma.sigmoid().sqrt()
    z = alpha * table[:, None] + sigma * noise
    said = F.linear(4 * z, head.weight[:, :2].double(), head.bias.double())
    log_p = (said + alpha / sigma**2 * (z @ table.T)).log_softmax(-1)
    error = (table[:, None] - log_p.exp() @ table).square().sum(-1) @ mass
    integrand = (torch.exp(-gamma[..., 0, 0]) / 2 * error).mean(-1)
    nats = torch.stack([-log_p[-1, v, :, v] @ mass for v in range(3)])
    return integrand[:-1] @ spans * (high - low) / 2 + nats.mean()
