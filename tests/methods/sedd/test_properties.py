"""What must hold of any model, whatever its shape, weights and dtype, up to both ends of time."""

import typing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_config

from pipeline.methods.draws import FREE
from pipeline.methods.samplers import PLAIN, Corrector, Grid, Order, Stepping
from pipeline.methods.sedd.bound import draw_bound
from pipeline.methods.sedd.draw import Predictor
from pipeline.methods.sedd.graph import sample_transition
from pipeline.methods.sedd.loss import ScoreEntropy, score_entropy
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.sampler import resolve, sample

VARIANTS = [
    ("absorb", "conditional"),
    ("absorb", "raw"),
    ("uniform", "raw"),
    ("uniform", "conditional"),
]
every_variant = pytest.mark.parametrize(("graph", "parameterization"), VARIANTS)
examples = settings(max_examples=40)


@st.composite
def models(draw, graph, parameterization):
    """A model of any small shape with random weights, and the generator to use with it."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    config = toy_config(
        graph,
        parameterization,
        noise=draw(st.sampled_from(["loglinear", "geometric"])),
        vocab_size=draw(st.integers(2, 40)),
        length=draw(st.integers(1, 9)),
        num_blocks=draw(st.integers(1, 2)),
        eps=draw(st.sampled_from([1e-9, 1e-3, 0.5])),
        sigma_min=draw(st.sampled_from([1e-9, 1e-4])),
        sigma_max=draw(st.sampled_from([1.0, 20.0, 80.0])),
        t_min=draw(st.sampled_from([1e-9, 1e-5, 1e-3])),
        scale_by_sigma=draw(st.booleans()),
    )
    model = SEDD(config)
    scale = draw(st.sampled_from([0.0, 0.1, 0.5]))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=scale, generator=generator)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    return model.to(dtype).eval(), generator


steppings = st.builds(
    Stepping,
    grid=st.sampled_from(typing.get_args(Grid)),
    order=st.sampled_from(["random", "random", *typing.get_args(Order)]),
    gamma=st.sampled_from([0.0, 0.5, 1e9]),
    corrector=st.sampled_from(typing.get_args(Corrector)),
    eta=st.sampled_from([1e-6, 0.3, 1.0]),
    hold=st.sampled_from([1e-12, 0.5, 0.999]),
    num_redrawn=st.integers(1, 9),
)


def texts(model, generator, num=4):
    return torch.randint(model.config.vocab_size, (num, model.length), generator=generator)


@every_variant
@examples
@given(data=st.data())
def test_loss_and_gradient_are_finite_up_to_both_ends_of_time(graph, parameterization, data):
    model, generator = data.draw(models(graph, parameterization))
    x0 = texts(model, generator, num=6)
    t = torch.tensor([1e-9, 1e-6, 1e-3, 0.5, 1 - 1e-9, 1.0], dtype=torch.float64)
    xt = sample_transition(model.graph, x0, model.noise.sigma(t), generator)
    limit = model.graph.sample_limit(tuple(x0.shape), generator)
    for noised in xt, x0, limit:
        loss = score_entropy(model, x0, noised, t).positions
        assert loss.shape == x0.shape
        assert bool(loss.isfinite().all())
        # Score entropy is never negative; float32 leaves an error of the size of its terms.
        assert loss.min() >= -1e-3 * loss.abs().max() - 1e-3
    method = ScoreEntropy(model)
    for drawn in (x0, xt, t), (x0, limit, t), method.draw(x0, generator):
        model.zero_grad()
        method.loss(*drawn).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


@every_variant
@examples
@given(data=st.data())
def test_bound_is_a_number(graph, parameterization, data):
    """Only the denoise may say that a text is impossible, and only with the uniform graph."""
    model, generator = data.draw(models(graph, parameterization))
    bound = draw_bound(
        model,
        texts(model, generator),
        num_replicates=2,
        num_draws=2,
        batch_size=3,
        seed=0,
    )
    assert bound.total.dtype == torch.float64
    assert bool(bound.integral.isfinite().all())
    assert bool(bound.prior.isfinite().all())
    assert bound.prior.min() >= -1e-12
    assert bound.reconstruction.min() >= -1e-12
    assert not bool(bound.reconstruction.isnan().any())
    if graph == "absorb":
        assert bool(bound.reconstruction.isfinite().all())


@every_variant
@examples
@given(data=st.data())
def test_samples_hold_no_mask_and_fixed_positions_never_move(graph, parameterization, data):
    model, generator = data.draw(models(graph, parameterization))
    names = [name for name in typing.get_args(Predictor) if allowed(model, name)]
    predictor = data.draw(st.sampled_from([*names, "auto"]))
    length = data.draw(st.integers(1, model.length))
    vocab_size = model.config.vocab_size
    fixed = data.draw(st.lists(st.integers(FREE, vocab_size - 1), min_size=length, max_size=length))
    fixed = torch.tensor(fixed)
    sharpening = {}
    if (graph, parameterization) != ("uniform", "raw"):
        sharpening["temperature"] = data.draw(st.sampled_from([1.0, 0.1, 3.0]))
        sharpening["top_p"] = data.draw(st.sampled_from([1.0, 0.9, 0.1]))
    stepping = data.draw(steppings)
    try:
        resolve(model, predictor, stepping=stepping)
    except ValueError:
        stepping = PLAIN
    states = []
    samples = sample(
        model,
        5,
        num_steps=data.draw(st.integers(1, 6)),
        predictor=predictor,
        generator=generator,
        length=length,
        fixed=fixed,
        stepping=stepping,
        on_state=lambda _step, _t, xt: states.append(xt.clone()),
        **sharpening,
    )
    assert samples.tokens.shape == (5, length)
    assert samples.tokens.dtype == torch.int64
    assert samples.tokens.min() >= 0
    assert samples.tokens.max() < vocab_size
    for state in [*states, samples.tokens]:
        assert bool((state == fixed)[:, fixed != FREE].all())
    assert samples.nfe.min() >= 0
    assert bool((fixed != FREE).any()) or samples.nfe.min() >= 1
    torch.testing.assert_close(states[-1], samples.tokens)


def allowed(model, name):
    try:
        return resolve(model, name) == name
    except ValueError:
        return False


def test_every_sampler_is_covered():
    conditional = SEDD(toy_config("absorb", "conditional"))
    raw = SEDD(toy_config("uniform", "raw"))
    names = typing.get_args(Predictor)
    assert {"analytic", "euler", "cached", "first_hitting"} <= set(names)
    assert [name for name in names if allowed(raw, name)] == ["analytic", "euler"]
    assert all(allowed(conditional, name) for name in names)
