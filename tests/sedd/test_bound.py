import math

import numpy as np
import pytest
import torch
from toy import ExactNetwork, all_states, exact_model

from pipeline.sedd.bound import (
    denoise_nats,
    draw_bound,
    prior_nats,
    rate,
    replicate_times,
)
from pipeline.sedd.loss import score_entropy

CASES = [("absorb", "conditional"), ("absorb", "raw"), ("uniform", "raw")]


def noised(graph, x0, sigma):
    """Every xt [S, L] with its chance [S] given x0 [L]."""
    states = all_states(graph.num_states, len(x0))
    chances = torch.matrix_exp(sigma * graph.rate())[x0]
    return states, torch.stack([chances[i, states[:, i]] for i in range(len(x0))]).prod(0)


def bound_by_quadrature(model, x0, num_nodes=40):
    """The bound of x0 [L] by Gauss-Legendre in t and enumeration of xt, float64."""
    start = model.t_min
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    total = prior_nats(model, x0[None]).item()
    for node, weight in zip(nodes, weights, strict=True):
        # Equal steps in log t resolve the end near t_min.
        low, high = math.log(max(start, 1e-9)), 0.0
        t = math.exp((high - low) / 2 * node + (high + low) / 2)
        time = torch.tensor(t, dtype=torch.float64)
        states, chances = noised(model.graph, x0, model.noise.sigma(time))
        reachable = chances > 0
        states, chances = states[reachable], chances[reachable]
        rows = len(states)
        losses = score_entropy(model, x0.expand(rows, -1), states, time.expand(rows)).sum(-1)
        total += weight * (high - low) / 2 * t * (chances * losses).sum().item()
    if not model.conditional:
        end = torch.tensor(start, dtype=torch.float64)
        states, chances = noised(model.graph, x0, model.noise.sigma(end))
        keep = chances > 0
        nats = denoise_nats(model, x0.expand(int(keep.sum()), -1), states[keep], end)
        total += (chances[keep] * nats).sum().item()
    return total


@torch.no_grad()
@pytest.mark.parametrize(("graph", "parameterization"), CASES)
def test_bound_of_the_exact_score_is_the_negative_log_likelihood(graph, parameterization):
    model, p0 = exact_model(graph, parameterization)
    for x0 in all_states(3, 2):
        exact = -p0[tuple(x0)].log().item()
        assert bound_by_quadrature(model, x0) == pytest.approx(exact, abs=2e-6)


@pytest.mark.parametrize(("graph", "parameterization"), CASES)
def test_monte_carlo_agrees_with_quadrature(graph, parameterization):
    model, _ = exact_model(graph, parameterization, t_min=1e-2, eps=1e-3)
    x0 = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]])
    bound = draw_bound(
        model,
        x0,
        num_replicates=64,
        num_draws=8,
        batch_size=3,
        generator=torch.Generator().manual_seed(0),
    )
    drawn = bound.total.mean(1)
    with torch.no_grad():
        exact = np.mean([bound_by_quadrature(model, row) for row in x0])
    assert drawn.mean().item() == pytest.approx(exact, abs=4 * drawn.std().item() / 8)
    assert drawn.std().item() / 8 < 0.15


def test_a_wrong_model_has_a_larger_bound():
    model, p0 = exact_model("absorb", "conditional")
    model.network = ExactNetwork(model, torch.full_like(p0, 1 / p0.numel()))
    with torch.no_grad():
        mean = sum(p0[tuple(x0)].item() * bound_by_quadrature(model, x0) for x0 in all_states(3, 2))
    entropy = -(p0 * p0.log()).sum().item()
    assert mean == pytest.approx(math.log(9), abs=1e-6)
    assert mean > entropy + 0.1


def test_replicate_times_are_stratified_over_all_and_within_each_text():
    times = replicate_times(10, 3, torch.Generator().manual_seed(0))
    assert times.shape == (3, 10)
    strata = ((1 - times) * 30).floor().long()
    assert sorted(strata.flatten().tolist()) == list(range(30))
    assert (strata // 10).tolist() == [[draw] * 10 for draw in range(3)]


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
