"""Losses against their formulas, and their gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from embedding_toy import drawn_for, embedding_config, free, objective_of, seeded

from pipeline.methods.draws import FREE
from pipeline.methods.embedding import network as embedding_network
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.training.gradient import accumulate_gradient, pieces_of

LOSSES = ("likelihood", "cross_entropy", "half", "mse_cross_entropy")
ROWS = 24
every_loss = pytest.mark.parametrize("loss", LOSSES)
both_inputs = pytest.mark.parametrize("input", ["evidence", "vector"])


def plain_loss(model, x0, known, t, scale, estimated, noise):
    """By the formulas, with all logits: nats a row [B]."""
    network, config = model.network, model.config
    w = network.vectors.weight
    if config.norm == "layernorm":
        w = w - w.mean(-1, keepdim=True)
    table = math.sqrt(config.dim) * w / w.norm(dim=-1, keepdim=True)
    g, slope = model.clock.g_and_slope(t)
    gamma = g + math.log(config.dim)
    alpha, sigma = (each.sqrt()[:, None, None] for each in ((-gamma).sigmoid(), gamma.sigmoid()))
    e = table[x0]
    z = alpha * e + sigma * noise

    def logits(hidden):
        return network.head(hidden) + alpha / sigma**2 * (z @ table.T)

    estimate = logits(network.hidden(z, g, known, torch.zeros_like(z))).softmax(-1) @ table
    is_free = (known == FREE).double()
    estimate = (estimate * estimated[:, None, None] * is_free[..., None]).detach()
    hidden = network.hidden(z, g, known, estimate)
    log_p = logits(hidden).log_softmax(-1)
    cross_entropy = -(log_p.gather(-1, x0[..., None]).squeeze(-1) * is_free).sum(-1)
    error = (e - log_p.exp() @ table).square().sum(-1)
    likelihood = slope / 2 * torch.exp(-gamma) * (error * is_free).sum(-1)
    if config.loss == "mse_cross_entropy":
        regressed = (network.regression(hidden) - e.detach()).square().mean(-1)
        return scale * (cross_entropy + (regressed * is_free).sum(-1))
    return (
        scale
        * {
            "likelihood": torch.where(t == 0, cross_entropy, likelihood),
            "cross_entropy": cross_entropy,
            "half": (cross_entropy + likelihood) / 2,
        }[config.loss]
    )


def gradients(module, loss):
    module.zero_grad()
    loss.backward()
    return {
        name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None
    }


def assert_same_gradients(ours, wanted, bar=1e-6):
    """To `bar` of each parameter's largest entry."""
    assert ours.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, name
        error = (ours[name] - gradient).abs().max() / gradient.abs().max()
        assert error <= bar, (name, error.item())


@every_loss
@both_inputs
@pytest.mark.parametrize(("norm", "clock"), [("l2", "nats"), ("layernorm", "decoding")])
def test_loss_and_gradient_are_those_of_the_formulas(loss, input, norm, clock):
    """With known positions, and an estimate in some rows; every parameter has a gradient."""
    how = {"norm": norm, "clock": clock, "self_condition": 0.5}
    objective = objective_of(loss=loss, input=input, **how)
    objective.module.clock.rms.copy_(torch.linspace(0.1, 3, 100))
    *first, scale, estimated, noise = drawn_for(objective)
    assert 0 < estimated.sum() < ROWS
    drawn = (*first, scale * torch.linspace(0.5, 2, ROWS), estimated, noise)
    ours, wanted = objective.loss(*drawn), plain_loss(objective.module, *drawn).sum()
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=0)
    assert torch.equal(objective.loss(*objective.located(*drawn)), ours)
    found = gradients(objective.module, ours)
    assert_same_gradients(found, gradients(objective.module, wanted))
    assert found.keys() == dict(objective.module.named_parameters()).keys()


@both_inputs
def test_gradient_is_that_of_finite_differences(input):
    """Along a direction in all weights, without estimates, which are none of their functions."""
    objective = objective_of(loss="half", input=input, self_condition=0.0)
    drawn, weights = drawn_for(objective), [*objective.module.parameters()]
    total = objective.loss(*drawn)
    generator, step = seeded(), 1e-5
    direction = [torch.randn(each.shape, dtype=each.dtype, generator=generator) for each in weights]
    slopes = torch.autograd.grad(total, weights)
    slope = sum((x * y).sum() for x, y in zip(slopes, direction, strict=True))

    @torch.no_grad()
    def moved_by(size):
        for each, along in zip(weights, direction, strict=True):
            each += size * along
        return objective.loss(*drawn)

    found = (moved_by(step) - moved_by(-2 * step)) / (2 * step)
    torch.testing.assert_close(found, slope, rtol=1e-6, atol=0)


@every_loss
def test_a_gradient_by_a_vectors_weights_is_orthogonal_to_them(loss):
    objective = objective_of(loss=loss)
    objective.loss(*drawn_for(objective)).backward()
    weight = objective.module.network.vectors.weight
    along = F.cosine_similarity(weight, weight.grad, dim=-1)
    torch.testing.assert_close(along, torch.zeros_like(along), rtol=0, atol=1e-9)


@every_loss
@pytest.mark.parametrize("clock", ["nats", "decoding", "cosine"])
def test_a_batch_in_pieces_has_the_same_gradient_and_teaches_the_clock_the_same(loss, clock):
    """With few estimates, so that a piece has none."""
    found = []
    for num in 1, 4:
        objective = objective_of(loss=loss, clock=clock, self_condition=0.15)
        pieces = pieces_of(drawn_for(objective), num)
        assert num == 1 or {bool(piece[4].any()) for piece in pieces} == {True, False}
        total = accumulate_gradient(objective, pieces)
        by_name = {name: each.grad.clone() for name, each in objective.module.named_parameters()}
        objective.finish_step()
        assert all(each.grad is None for each in objective.module.parameters())
        found.append((total, by_name, objective.module.clock.rms))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert_same_gradients(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2], found[1][2])
    assert not torch.equal(found[0][2], torch.ones_like(found[0][2]))


@pytest.mark.parametrize("loss", ["likelihood", "half"])
def test_the_clock_sees_the_integrand_of_the_bound_in_nats_a_text(loss):
    """Known positions count as the free ones do, and rows count alike."""
    objective = objective_of(loss=loss)
    drawn, seen, model = drawn_for(objective), [], objective.module
    model.clock.observe = lambda g, nats: seen.append((g, nats))
    objective.loss(*drawn)
    x0, known, t, _, estimated, noise = drawn
    ((g, nats),) = seen
    torch.testing.assert_close(g, model.clock.g(t))
    scale = model.length / (known == FREE).sum(-1)
    likelihood = EmbeddingDiffusion(embedding_config(loss="likelihood")).double()
    likelihood.network = model.network
    tiny = t.clamp(min=1e-15)
    slope = model.clock.g_and_slope(tiny)[1]
    wanted = plain_loss(likelihood, x0, known, tiny, scale, estimated, noise) / slope
    torch.testing.assert_close(nats, wanted, rtol=1e-5, atol=1e-9)


def test_the_clock_sees_nothing_but_training():
    objective = objective_of()
    drawn = drawn_for(objective)
    objective.module.eval()
    objective.loss(*drawn)
    objective.module.train()
    with torch.no_grad():
        objective.loss(*drawn)
    objective.finish_step()
    assert torch.equal(objective.module.clock.rms, torch.ones(100, dtype=torch.float64))


def test_a_resumed_run_has_the_same_bytes():
    """Half of the steps, what was saved of them, and the other half: weights and clock."""

    def steps(objective, numbers):
        for step in numbers:
            objective.loss(*drawn_for(objective, seed=step)).backward()
            with torch.no_grad():
                for parameter in objective.module.parameters():
                    parameter -= 1e-3 * parameter.grad
            objective.finish_step()
        return objective.module.state_dict()

    whole = steps(objective_of(), range(6))
    resumed = objective_of()
    torch.nn.init.zeros_(resumed.module.network.head.weight)
    resumed.module.load_state_dict(steps(objective_of(), range(3)))
    for name, value in steps(resumed, range(3, 6)).items():
        assert torch.equal(value, whole[name]), name


@both_inputs
def test_estimates_change_their_own_rows_alone_and_leave_no_gradient(input):
    objective = objective_of(input=input, known=0.0)
    x0, known, t, scale, _, noise = drawn_for(objective)
    rows = torch.arange(ROWS)

    def by_row(estimated):
        return torch.stack(
            [
                objective.loss(*(x[i : i + 1] for x in (x0, known, t, scale, estimated, noise)))
                for i in range(ROWS)
            ]
        )

    none, every, some = by_row(rows < 0), by_row(rows >= 0), by_row(rows < 5)
    assert torch.equal(some[5:], none[5:])
    assert torch.equal(some[:5], every[:5])
    assert bool((every != none).all())
    calls = []
    hidden = objective.module.network.hidden

    def spied(z, g, known, estimate=None, at=None):
        calls.append((len(z), torch.is_grad_enabled(), z.requires_grad, estimate))
        return hidden(z, g, known, estimate, at)

    objective.module.network.hidden = spied
    objective.loss(x0, known, t, scale, rows < 5, noise)
    objective.loss(x0, known, t, scale, rows < 0, noise)
    first, second, alone = calls
    assert first == (5, False, False, None)
    assert second[:3] == (ROWS, True, True)
    assert not second[3].requires_grad
    assert not second[3][5:].any()
    assert alone == (ROWS, True, True, None)


def test_no_softmax_over_the_vocabulary_is_taken_where_a_token_is_known(monkeypatch):
    objective = objective_of(self_condition=0.5)
    drawn, taken, expected = drawn_for(objective), [], embedding_network.expected

    def spied(hidden, *others):
        taken.append(len(hidden))
        return expected(hidden, *others)

    monkeypatch.setattr(embedding_network, "expected", spied)
    objective.loss(*drawn)
    is_free = drawn[1] == FREE
    first, every = int(is_free[drawn[4]].sum()), int(is_free.sum())
    assert taken == [first, first, every, every]
    assert 0 < first < every < is_free.numel()


def test_a_batch_of_no_estimate_and_one_token_a_text():
    objective = objective_of(length=1)
    drawn = drawn_for(objective)
    assert torch.equal(drawn[1], free(ROWS, 1))
    assert objective.loss(*drawn).isfinite()
