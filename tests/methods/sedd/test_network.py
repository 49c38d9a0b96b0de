"""What stays in float32 where weights are narrower, and each quicker way against the plain one."""

import sys
from types import ModuleType

import pytest
import torch
from toy import small_model, toy_config

from pipeline.device import why_not_compiled
from pipeline.kernels.attention import attend
from pipeline.methods.sedd.loss import ScoreEntropy, score_entropy
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.network import cast_weights
from pipeline.methods.sedd.weights import denoise_weights, step_weights
from pipeline.network.layers import by_row
from pipeline.training.gradient import accumulate_gradient, pieces_of


def inputs_of(module):
    """The list of dtypes that a module's first input has, filled as it runs."""
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    return seen


@torch.no_grad()
@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_narrow_weights_leave_sigma_and_sums_in_float32(graph):
    model = small_model(graph)
    cast_weights(model, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.network.rotary_emb.inv_freq.dtype == torch.float32
    sigmas, sums = (
        inputs_of(model.network.sigma_map),
        inputs_of(model.network.output_layer.norm_final),
    )
    xt = torch.randint(11, (4, 16), generator=torch.Generator().manual_seed(0))
    t = torch.tensor(0.97, dtype=torch.float64)
    losses = score_entropy(model, xt, xt, t.expand(4)).positions
    step_weights(model, xt, t, t - 0.1, "analytic")
    denoise_weights(model, xt, t)
    assert set(sigmas) == set(sums) == {torch.float32}
    log_score = model.log_score(xt, model.noise.sigma(t.expand(4)).float())
    assert losses.dtype == log_score.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_narrow_weights_cost_what_their_rounding_does(graph):
    model, narrow = small_model(graph), small_model(graph)
    cast_weights(narrow, torch.bfloat16)
    cast_weights(narrow, torch.float32)
    cast_weights(model, torch.bfloat16)
    xt = torch.randint(11, (4, 16), generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([1e-4, 0.1, 3.3, 19.9])
    # A sigma for each row, and one for all.
    for given in sigma, sigma[2:3]:
        ours, exact = (made.log_score(xt, given) for made in (model, narrow))
        assert float((ours - exact).abs().max()) < 2e-2 * float(exact.abs().max())


@torch.no_grad()
def test_flash_attention_takes_its_own_layout(monkeypatch):
    shapes = []

    def flash_attn_func(query, key, value):
        shapes.append(tuple(query.shape))
        weights = torch.einsum("blhd,bmhd->bhlm", query, key) / query.shape[-1] ** 0.5
        return torch.einsum("bhlm,bmhd->blhd", weights.softmax(-1), value)

    package = ModuleType("flash_attn")
    package.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    network = small_model().network
    xt = torch.randint(12, (4, 16), generator=torch.Generator().manual_seed(0))
    sigma = torch.rand(4, generator=torch.Generator().manual_seed(0))
    by_torch = network(xt, sigma)
    assert shapes == []
    network.attention = "flash"
    torch.testing.assert_close(network(xt, sigma), by_torch)
    # Batch, position, head, width: PyTorch has heads before positions.
    assert shapes == [(4, 16, 3, 8)] * 2
    assert not any("attention" in name for name in network.state_dict())


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
@pytest.mark.parametrize("sigmas", [1, 5])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_positions_asked_for_alone_are_those_of_all(graph, sigmas, share):
    """The last block skips the others; what they are asked for, its gradient is the same."""
    torch.manual_seed(0)
    for parameterization in ("raw", "conditional"):
        config = toy_config(graph, parameterization, length=6, num_blocks=2)
        model = SEDD(config).double().eval()
        network = model.network
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        xt = torch.randint(3, (5, 6))
        at = torch.rand(5, 6) < share
        sigma = None if model.timeless else torch.rand(sigmas, dtype=torch.float64)
        every, alone = network.hidden(xt, sigma), network.hidden(xt, sigma, at)
        torch.testing.assert_close(alone, every[at])
        # Not those of the head, which hidden states come before.
        weights = [w for name, w in network.named_parameters() if "output_layer.linear" not in name]
        for expected, found in zip(
            *(torch.autograd.grad(h.square().sum(), weights) for h in (every[at], alone)),
            strict=True,
        ):
            torch.testing.assert_close(found, expected)
        with torch.no_grad():
            torch.testing.assert_close(network.hidden(xt, sigma, at), every[at])
            torch.testing.assert_close(network(xt, sigma, at), network.head(every[at]))


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_a_sigma_of_all_rows_is_that_of_each(graph):
    """Norms take its shift and scale as their own, and the first block projects each state once."""
    model = small_model(graph).double().eval()
    xt = torch.randint(model.graph.num_states, (4, 16), generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.7], dtype=torch.float64)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    expected = model.network(xt, sigma.expand(4))
    torch.testing.assert_close(model.network(xt, sigma), expected)
    shapes = []
    model.network.blocks[0].norm1.register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape))
    )
    with torch.no_grad():
        torch.testing.assert_close(model.network(xt, sigma), expected)
    assert shapes == [(1, model.graph.num_states, 24)]


def test_short_attention_trains_as_the_fused_kernel():
    """Values and gradients in float64, where training takes plain products on a CPU."""
    draws = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(3, 2, 16, 8, dtype=torch.float64, generator=draws, requires_grad=True)
        for _ in range(3)
    ]
    by_output = torch.randn(3, 2, 16, 8, dtype=torch.float64, generator=draws)
    short = attend(*inputs, "sdpa")
    fused = torch.nn.functional.scaled_dot_product_attention(*inputs)
    assert type(short.grad_fn) is not type(fused.grad_fn)
    torch.testing.assert_close(short, fused, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        torch.autograd.grad(short, inputs, by_output),
        torch.autograd.grad(fused, inputs, by_output),
        rtol=1e-11,
        atol=1e-14,
    )


@pytest.mark.parametrize(("scale", "bar"), [(1, 0.006), (8, 0.025)])
@pytest.mark.parametrize("autocast", [False, True])
def test_short_attention_in_bfloat16_is_near_the_exact_one(autocast, scale, bar):
    """Scores are rounded, to 2^-9 of themselves: those of up to 5, and of up to 43."""
    draws = torch.Generator().manual_seed(0)
    exact = [torch.randn(4, 2, 128, 32, dtype=torch.float64, generator=draws) for _ in range(4)]
    exact[0] *= scale
    *inputs, by_output = (tensor.bfloat16() for tensor in exact)
    narrow = [tensor.clone().requires_grad_() for tensor in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = attend(*narrow, "sdpa")
        fused = torch.nn.functional.scaled_dot_product_attention(*narrow)
    assert found.dtype == torch.bfloat16
    assert type(found.grad_fn) is not type(fused.grad_fn)
    wide = [tensor.double().requires_grad_() for tensor in inputs]
    expected = torch.nn.functional.scaled_dot_product_attention(*wide)
    pairs = zip(
        [found.detach(), *torch.autograd.grad(found, narrow, by_output)],
        [expected.detach(), *torch.autograd.grad(expected, wide, by_output.double())],
        strict=True,
    )
    for ours, exactly in pairs:
        assert (ours.double() - exactly).norm() / exactly.norm() < bar


@pytest.mark.filterwarnings("default")  # Of torch.compile's own.
@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiled_blocks_have_the_gradients_of_plain_ones(checkpointing):
    if reason := why_not_compiled(torch.device("cpu")):
        pytest.skip(reason)
    x0 = torch.randint(11, (8, 16), generator=torch.Generator().manual_seed(0))
    found = []
    for is_compiled in False, True:
        model = small_model().train()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
        if is_compiled:
            model.network.compile_blocks()
        model.network.activation_checkpointing = checkpointing
        method = ScoreEntropy(model)
        loss = method.loss(*method.draw(x0, torch.Generator().manual_seed(2)))
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for compiled, plain in zip(*reversed(found), strict=True):
        assert plain.abs().max() > 0
        assert (compiled - plain).abs().max() <= 1e-5 * plain.abs().max()


@pytest.mark.filterwarnings("default")  # Of torch.compile's own.
def test_compiled_blocks_in_bfloat16_are_as_near_to_float32_as_plain_ones():
    if reason := why_not_compiled(torch.device("cpu")):
        pytest.skip(reason)
    x0 = torch.randint(11, (8, 16), generator=torch.Generator().manual_seed(0))

    def gradients(precision, is_compiled):
        model = small_model().train()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
        if is_compiled:
            model.network.compile_blocks()
        method = ScoreEntropy(model)
        drawn = method.draw(x0, torch.Generator().manual_seed(2))
        accumulate_gradient(method, pieces_of(drawn, 1), precision)
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    exact = gradients("float32", is_compiled=False)
    plain, compiled = (gradients("bfloat16", is_compiled) for is_compiled in (False, True))
    assert 0 < (compiled - exact).norm() < 1.5 * (plain - exact).norm()
    assert (plain - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_gradients_of_modulation_in_bfloat16_are_near_those_in_float64(graph):
    """Each is a sum over the positions of a row, and of a thousand bfloat16 would keep a part."""
    sizes = {"vocab_size": 27, "length": 1024, "width": 32, "num_blocks": 2, "cond_dim": 16}
    usual = {"noise": "geometric", "scale_by_sigma": graph == "absorb", "t_min": 1e-3}
    x0 = torch.randint(27, (4, 1024), generator=torch.Generator().manual_seed(0))

    def gradients(dtype, precision):
        model = SEDD(toy_config(graph, "raw", **sizes, **usual)).to(dtype).train()
        draws = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
            parameter.data.copy_(0.1 * drawn)
        method = ScoreEntropy(model)
        drawn = method.draw(x0, torch.Generator().manual_seed(2))
        accumulate_gradient(method, pieces_of(drawn, 1), precision)
        return {name: each.grad for name, each in model.named_parameters() if "adaLN" in name}

    exact, ours = gradients(torch.float64, "float32"), gradients(torch.float32, "bfloat16")
    assert len(exact) == 6
    for name, expected in exact.items():
        assert (ours[name] - expected).norm() < 0.02 * expected.norm(), name


def test_modulation_of_positions_is_wide_where_its_gradient_is_a_narrow_sum():
    modulation, row = torch.ones(2, 4, dtype=torch.bfloat16), torch.tensor([0, 0, 0, 1, 1, 1])
    assert by_row(modulation, row).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert by_row(modulation, row).dtype == torch.float32
        assert by_row(modulation.double(), row).dtype == torch.float64
