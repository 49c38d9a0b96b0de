"""The reconstruction term of the bound: the network's outputs at masks alone."""

import pytest
import torch
from toy import random_model

from pipeline.methods.sedd.bound import denoise_nats, draw_reconstruction
from pipeline.methods.sedd.draw import CHUNK
from pipeline.methods.sedd.graph import sample_transition
from pipeline.methods.sedd.weights import denoise_weights

VOCAB, LENGTH = 23, 64


def a_model(parameterization="raw", graph="absorb"):
    sizes = {"vocab_size": VOCAB, "length": LENGTH, "width": 16, "num_blocks": 2}
    usual = {"noise": "geometric", "scale_by_sigma": True, "t_min": 0.1, "sigma_min": 1e-2}
    return random_model(graph, parameterization, **sizes, **usual).double()


def noised(model, num_rows=8, share=0.1):
    draws = torch.Generator().manual_seed(0)
    x0 = torch.randint(VOCAB, (num_rows, LENGTH), generator=draws)
    is_mask = torch.rand(x0.shape, generator=draws) < share
    return x0, torch.where(is_mask, model.graph.num_states - 1, x0)


def full_nats(model, x0, xt, t):
    """Of all positions, and of every state there."""
    weights = denoise_weights(model, xt, t).clamp(min=0)
    drawn = weights.gather(-1, x0[..., None]).squeeze(-1)
    return (weights.sum(-1).log() - drawn.log()).sum(-1)


@torch.no_grad()
@pytest.mark.parametrize("parameterization", ["raw", "conditional"])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_it_is_that_of_all_positions(parameterization, share):
    model = a_model(parameterization)
    x0, xt = noised(model, share=share)
    t = torch.tensor(0.1, dtype=torch.float64)
    ours = denoise_nats(model, x0, xt, t)
    torch.testing.assert_close(ours, full_nats(model, x0, xt, t), rtol=1e-12, atol=1e-12)
    assert bool((ours > 0).all()) == (share > 0)


@torch.no_grad()
def test_a_token_that_stands_for_another_has_no_chance():
    model = a_model()
    x0, xt = noised(model)
    xt[0, 0] = (x0[0, 0] + 1) % VOCAB
    nats = denoise_nats(model, x0, xt, torch.tensor(0.1, dtype=torch.float64))
    assert torch.isinf(nats).tolist() == [True] + 7 * [False]


@torch.no_grad()
@pytest.mark.parametrize("parameterization", ["raw", "conditional"])
def test_weights_at_some_positions_are_those_among_all(parameterization):
    model = a_model(parameterization)
    _, xt = noised(model)
    at = torch.rand(xt.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    t = torch.tensor(0.1, dtype=torch.float64)
    ours, every = denoise_weights(model, xt, t, at), denoise_weights(model, xt, t)
    torch.testing.assert_close(ours, every[at], rtol=1e-10, atol=1e-14)


def test_the_head_is_asked_for_masks_alone():
    model, asked = a_model(), []
    model.network.head.register_forward_pre_hook(
        lambda _, inputs: asked.append(inputs[0].shape[:-1].numel())
    )
    x0, _ = noised(model, num_rows=40)
    t = torch.tensor(model.t_min, dtype=torch.float64)
    sigma, draws = model.noise.sigma(t).expand(len(x0)), torch.Generator().manual_seed(3)
    xt = sample_transition(model.graph, x0, sigma, draws)
    num_masks = int((xt == model.graph.mask_id).sum())
    with torch.no_grad():
        draw_reconstruction(model, x0, torch.Generator().manual_seed(3))
    assert asked == [num_masks]
    assert 0 < num_masks < x0.numel() / 20


@torch.no_grad()
@pytest.mark.parametrize("parameterization", ["raw", "conditional"])
def test_with_uniform_a_few_texts_at_a_time_give_the_same(parameterization, monkeypatch):
    model, asked = a_model(parameterization, "uniform"), []
    x0, xt = noised(model, num_rows=7)
    t = torch.tensor(0.1, dtype=torch.float64)
    xt = torch.where(xt == VOCAB, 0, xt)
    expected = full_nats(model, x0, xt, t)
    monkeypatch.setitem(CHUNK, "cpu", 3 * LENGTH * VOCAB)
    model.network.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    ours = denoise_nats(model, x0, xt, t)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert asked == [3, 3, 1]
