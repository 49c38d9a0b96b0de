import functools

import pytest
import torch
from enumeration import generator_of
from toy import all_states, check_law, entropy_of, exact_model, rates_of

from pipeline.methods.sedd.graph import Absorb, Uniform, sample_transition

GRAPHS = [Absorb(4), Uniform(4)]
both = pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: type(graph).__name__)


def transition(graph, sigma):
    return torch.matrix_exp(sigma * rates_of(graph))


@both
@pytest.mark.parametrize("sigma", [0.01, 0.7, 5.0])
def test_transposed_transition_is_the_matrix_exponential(graph, sigma):
    xt = torch.arange(4)[None]
    ours = graph.transposed_transition(xt, torch.tensor([sigma], dtype=torch.float64))[0]
    torch.testing.assert_close(ours, transition(graph, sigma).T, rtol=1e-10, atol=1e-13)


@both
@pytest.mark.parametrize("sigma", [0.0, 0.3, 4.0])
def test_rate_is_the_derivative_of_the_transition(graph, sigma):
    """d exp(sigma Q) / d sigma = exp(sigma Q) Q, and Q itself at sigma = 0."""
    xt = torch.arange(4)[None]
    derivative = torch.autograd.functional.jacobian(
        lambda at: graph.transposed_transition(xt, at)[0].T,
        torch.tensor([sigma], dtype=torch.float64),
    )[..., 0]
    expected = transition(graph, sigma) @ rates_of(graph)
    torch.testing.assert_close(derivative, expected, rtol=1e-10, atol=1e-13)


@both
def test_staggered_score_is_the_inverse_transition_of_the_score(graph):
    """If score = p / p(xt), then the staggered score is (exp(-delta_sigma Q)^T p) / p(xt)."""
    score = torch.rand(1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    delta_sigma = 0.3
    ours = graph.staggered_score(score, torch.tensor([delta_sigma], dtype=torch.float64))
    inverse = torch.matrix_exp(-delta_sigma * rates_of(graph))
    torch.testing.assert_close(ours, score @ inverse, rtol=1e-12, atol=1e-14)


@both
def test_sampled_transition_follows_the_matrix_exponential(graph):
    num, sigma = 20_000, 0.7
    x0 = torch.ones(num, 1, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    xt = sample_transition(graph, x0, torch.full((num,), sigma), generator)
    check_law(xt[:, 0], transition(graph, sigma)[1])


@pytest.mark.parametrize(("name", "vocab_size"), [("absorb", 3), ("uniform", 4)])
@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("sigma", [0.02, 0.6, 5.0])
def test_reverse_rate_is_that_of_the_brute_force_generator(name, vocab_size, length, sigma):
    """Reversed rate x -> y is Q_forward(y -> x) p(y) / p(x) over whole sequences, V = 4."""
    model, _ = exact_model(name, "raw", vocab_size=vocab_size, length=length)
    sigma = torch.tensor(sigma, dtype=torch.float64)
    p = model.network.marginal(sigma).flatten()
    one, same = rates_of(model.graph), torch.eye(4, dtype=torch.float64)
    forward = sum(
        functools.reduce(torch.kron, [one if place == moved else same for place in range(length)])
        for moved in range(length)
    )
    reverse = forward.T * p[None, :] / p[:, None]
    reverse.fill_diagonal_(0)
    reverse.diagonal().copy_(-reverse.sum(-1))
    ours = generator_of(model, sigma[None])[0]
    torch.testing.assert_close(ours, reverse, rtol=1e-9, atol=1e-9)


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
            at_ratio, _ = entropy_of(graph, finite, *tokens, sigma_row)
            assert at_ratio.item() == pytest.approx(0, abs=1e-9)
            off = (
                finite + 0.3 * torch.randn(4, generator=torch.Generator().manual_seed(x0)).double()
            )
            if graph.mask_id is None or xt == graph.mask_id:
                assert entropy_of(graph, off, *tokens, sigma_row)[0].item() > 1e-6


@both
def test_score_entropy_takes_no_notice_of_the_score_of_staying(graph):
    generator = torch.Generator().manual_seed(0)
    log_score = torch.randn(6, 5, 4, dtype=torch.float64, generator=generator)
    x0 = torch.randint(3, (6, 5), generator=generator)
    sigma = torch.linspace(0.1, 3, 6, dtype=torch.float64)
    xt = sample_transition(graph, x0, sigma, generator)
    entropies = [
        entropy_of(graph, log_score.scatter(-1, xt[..., None], value), x0, xt, sigma)[0]
        for value in (0.0, 1.5)
    ]
    torch.testing.assert_close(*entropies, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["absorb", "uniform"])
@pytest.mark.parametrize("sigma", [0.05, 0.8, 4.0])
def test_mean_score_entropy_is_least_at_the_marginal_ratio(name, sigma):
    """Averaged over x0 given xt, for every xt of two correlated positions."""
    model, p0 = exact_model(name, "raw", length=2)
    graph, sigma = model.graph, torch.tensor(sigma, dtype=torch.float64)
    clean, states = all_states(3, 2), all_states(graph.num_states, 2)
    chances = transition(graph, sigma)
    joint = p0.flatten()[:, None] * chances[clean[:, None], states].prod(-1)
    generator = torch.Generator().manual_seed(0)
    for xt, weights in zip(states, joint.T, strict=True):
        posterior = (weights / weights.sum())[:, None]

        def mean(log_score, xt=xt, posterior=posterior):
            rows = log_score.expand(9, -1, -1), clean, xt.expand(9, -1), sigma.expand(9)
            entropy, gradient = entropy_of(graph, *rows, posterior)
            return torch.where(posterior > 0, entropy, 0.0).sum(), gradient.sum(0, keepdim=True)

        marginal = model.log_score(xt[None], sigma[None]).clamp(min=-50)
        least, gradient = mean(marginal)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)
        off = 0.3 * torch.randn(marginal.shape, generator=generator, dtype=torch.float64)
        off = off.scatter(-1, xt[None, :, None], 0.0)
        moved = graph.mask_id is None or bool((xt == graph.mask_id).any())
        assert (mean(marginal + off)[0] > least + 1e-5) == moved


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
