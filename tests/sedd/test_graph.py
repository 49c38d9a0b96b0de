import pytest
import torch
from toy import all_states, check_law, exact_model

from pipeline.sedd.graph import Absorb, Uniform

GRAPHS = [Absorb(4), Uniform(4)]
both = pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: type(graph).__name__)


def transition(graph, sigma):
    return torch.matrix_exp(sigma * graph.rate())


@both
@pytest.mark.parametrize("sigma", [0.01, 0.7, 5.0])
def test_transposed_transition_is_the_matrix_exponential(graph, sigma):
    xt = torch.arange(4)[None]
    ours = graph.transposed_transition(xt, torch.tensor([sigma], dtype=torch.float64))[0]
    torch.testing.assert_close(ours, transition(graph, sigma).T, rtol=1e-10, atol=1e-13)


@both
def test_staggered_score_is_the_inverse_transition_of_the_score(graph):
    """If score = p / p(xt), then the staggered score is (exp(-delta_sigma Q)^T p) / p(xt)."""
    score = torch.rand(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    delta_sigma = 0.3
    ours = graph.staggered_score(score, torch.tensor([delta_sigma], dtype=torch.float64))
    inverse = torch.matrix_exp(-delta_sigma * graph.rate())
    torch.testing.assert_close(ours, score @ inverse, rtol=1e-12, atol=1e-14)


@both
def test_sampled_transition_follows_the_matrix_exponential(graph):
    num, sigma = 20_000, 0.7
    x0 = torch.ones(num, 1, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    xt = graph.sample_transition(x0, torch.full((num,), sigma), generator)
    check_law(xt[:, 0], transition(graph, sigma)[1])


@pytest.mark.parametrize("name", ["absorb", "uniform"])
def test_reverse_rate_is_that_of_the_brute_force_generator(name):
    """Reversed rate x -> y is Q_forward(y -> x) p(y) / p(x) over whole sequences."""
    model, _ = exact_model(name, "raw")
    graph, sigma = model.graph, torch.tensor(0.6, dtype=torch.float64)
    states = all_states(graph.num_states, 2)
    p = model.network.marginal(sigma).flatten()
    one, same = graph.rate(), torch.eye(graph.num_states, dtype=torch.float64)
    forward = torch.kron(one, same) + torch.kron(same, one)
    reverse = forward.T * p[None, :] / p[:, None]
    reverse.fill_diagonal_(0)
    score = model.log_score(states, sigma.expand(len(states))).exp()
    rate = graph.reverse_rate(states, score)
    torch.testing.assert_close(rate.sum(-1), torch.zeros_like(rate[..., 0]), rtol=0, atol=1e-9)
    for row, state in enumerate(states):
        if p[row] == 0:
            continue
        for position in range(2):
            for value in range(graph.num_states):
                if value == state[position]:
                    continue
                target = state.clone()
                target[position] = value
                column = int(target[0]) * graph.num_states + int(target[1])
                assert rate[row, position, value].item() == pytest.approx(
                    reverse[row, column].item(), rel=1e-9, abs=1e-12
                )


@both
@pytest.mark.parametrize("sigma", [0.05, 1.0, 6.0])
def test_score_entropy_is_zero_at_the_conditional_ratio(graph, sigma):
    chances = transition(graph, sigma)
    num_tokens = 4 if graph.mask_id is None else 3
    sigma_row = torch.tensor([sigma], dtype=torch.float64)
    for x0 in range(num_tokens):
        for xt in range(4):
            if chances[x0, xt] == 0:
                continue
            log_ratio = (chances[x0] / chances[x0, xt]).log()[None, None]
            tokens = torch.tensor([[x0]]), torch.tensor([[xt]])
            finite = torch.where(log_ratio.isinf(), -50.0, log_ratio)
            at_ratio = graph.score_entropy(finite, *tokens, sigma_row)
            assert at_ratio.item() == pytest.approx(0, abs=1e-9)
            off = (
                finite + 0.3 * torch.randn(4, generator=torch.Generator().manual_seed(x0)).double()
            )
            if graph.mask_id is None or xt == graph.mask_id:
                assert graph.score_entropy(off, *tokens, sigma_row).item() > 1e-6


@pytest.mark.parametrize("name", ["absorb", "uniform"])
def test_mean_score_entropy_is_least_at_the_marginal_ratio(name):
    model, p0 = exact_model(name, "raw", length=1)
    graph, sigma = model.graph, torch.tensor([0.8], dtype=torch.float64)
    chances = transition(graph, 0.8)
    states = range(graph.num_states) if graph.mask_id is None else [graph.mask_id]
    for xt in states:
        posterior = p0 * chances[: len(p0), xt]
        marginal = model.log_score(torch.tensor([[xt]]), sigma).detach().requires_grad_()
        mean = sum(
            weight
            * graph.score_entropy(marginal, torch.tensor([[x0]]), torch.tensor([[xt]]), sigma)
            for x0, weight in enumerate(posterior)
        )
        (gradient,) = torch.autograd.grad(mean.sum(), marginal)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@both
def test_prior_nats_is_the_divergence_from_the_prior(graph):
    for sigma in (0.5, 6.9):
        end = transition(graph, sigma)[0]
        if graph.mask_id is None:
            prior = torch.full((4,), 0.25, dtype=torch.float64)
        else:
            survive = torch.tensor(-sigma, dtype=torch.float64).exp()
            prior = torch.cat([(survive / 3).expand(3), 1 - survive[None]])
        divergence = torch.xlogy(end, end / prior).sum()
        ours = graph.prior_nats(torch.tensor(sigma, dtype=torch.float64))
        torch.testing.assert_close(ours, divergence, rtol=1e-8, atol=1e-13)
