"""What the network computes quicker without a gradient is what it computes with one."""

import itertools

import pytest
import torch
from toy import small_model

from pipeline.kernels import perceptron
from pipeline.kernels.perceptron import Perceptron, TanhGELU
from pipeline.network import block


def calls_of(monkeypatch, module, name):
    """A list that gets an entry whenever a function of the module is called."""
    calls, function = [], getattr(module, name)

    def telling(*arguments):
        calls.append(name)
        return function(*arguments)

    monkeypatch.setattr(module, name, telling)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gelu_is_pytorchs_with_a_gradient_and_without(dtype):
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {}
    x = torch.linspace(-30, 30, 10_001, dtype=dtype, requires_grad=True)
    expected = torch.nn.functional.gelu(x, approximate="tanh")
    torch.testing.assert_close(TanhGELU()(x), expected, **tolerance)
    by_x, by_x_expected = (torch.autograd.grad(y.sum(), x)[0] for y in (TanhGELU()(x), expected))
    # Both lose digits in 1 - sigmoid.
    tolerance = {"rtol": 1e-6, "atol": 5e-6} if dtype == torch.float32 else {}
    torch.testing.assert_close(by_x, by_x_expected, **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(TanhGELU()(x), expected, **tolerance)


@pytest.mark.parametrize(
    ("shape", "is_fused"), [((2, 16, 24), 1), ((37, 1, 24), 1), ((5, 1, 24), 0)]
)
@pytest.mark.parametrize("has_onednn", [perceptron.HAS_ONEDNN, False])
def test_perceptron_is_the_same_with_a_gradient_and_without(
    shape, is_fused, has_onednn, monkeypatch
):
    """At two groups of positions, at what has to be filled up to three, and at less than one."""
    calls = calls_of(monkeypatch, perceptron, "_linear_gelu")
    monkeypatch.setattr(perceptron, "HAS_ONEDNN", has_onednn)
    monkeypatch.setattr(perceptron, "GROUP", 16 * 24)
    torch.manual_seed(0)
    layers, x = Perceptron(24), 3 * torch.randn(shape)
    expected = torch.nn.functional.gelu(layers[0](x), approximate="tanh")
    tolerance = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(layers.inner(x), expected, **tolerance)
    assert not calls
    with torch.no_grad():
        torch.testing.assert_close(layers.inner(x), expected, **tolerance)
    assert len(calls) == is_fused * has_onednn


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parameterization", ["raw", "conditional"])
@pytest.mark.parametrize("num_rows", [1, 20])
def test_sums_in_place_are_those_with_a_gradient(dtype, parameterization, num_rows, monkeypatch):
    """Of one row, which has fewer numbers than weights that would take the gate, and of many."""
    sums = calls_of(monkeypatch, block, "_add_linear_")
    monkeypatch.setattr(perceptron, "GROUP", 16 * 24)
    model = small_model(parameterization=parameterization).to(dtype).eval()
    draws = torch.Generator().manual_seed(0)
    xt = torch.randint(12, (num_rows, 16), generator=draws)
    at = torch.rand(num_rows, 16, generator=draws) < 0.5
    one_sigma, many = torch.tensor([0.7], dtype=dtype), torch.linspace(0.1, 3, num_rows).to(dtype)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    for sigma, where in itertools.product([one_sigma, many], [None, at]):
        expected = model.network.hidden(xt, sigma, where)
        assert not sums
        with torch.no_grad():
            found = model.network.hidden(xt, sigma, where)
        torch.testing.assert_close(found, expected, **tolerance)
        # Two blocks have four sums. In raw, a gate for each row is part of no weight.
        if parameterization == "conditional" or (num_rows, len(sigma)) == (20, 1):
            assert len(sums) == 4
        sums.clear()


@torch.no_grad()
@pytest.mark.parametrize("dropped", ["attn_out", "mlp"])
def test_dropout_is_never_summed_in_place(dropped):
    model, xt = small_model(dropout=0.5), torch.zeros(20, 16, dtype=torch.int64)
    for made in model.network.blocks:
        weight = made.mlp.down if dropped == "attn_out" else made.attn_out
        # What the other sum adds is 0, dropped or not.
        for parameter in weight.parameters():
            parameter.zero_()
    sigma = torch.tensor([0.7])
    exact = model.eval().network.hidden(xt, sigma)
    assert not torch.allclose(model.train().network.hidden(xt, sigma), exact)


@torch.no_grad()
def test_autocast_rounds_without_a_gradient_too(monkeypatch):
    calls = calls_of(monkeypatch, perceptron, "_linear_gelu")
    monkeypatch.setattr(perceptron, "GROUP", 16 * 24)
    model, xt = small_model(), torch.zeros(20, 16, dtype=torch.int64)
    exact = model.network.hidden(xt, torch.tensor([0.7]))
    assert len(calls) == 2 * perceptron.HAS_ONEDNN
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.network.hidden(xt, torch.tensor([0.7]))
    assert rounded.dtype == torch.float32
    assert 1e-4 < float((rounded - exact).abs().max()) < 0.5
    assert len(calls) == 2 * perceptron.HAS_ONEDNN
