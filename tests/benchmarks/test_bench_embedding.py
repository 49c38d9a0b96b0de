"""Embedding diffusion in its plain formulation is the product's; the sides of its rows run."""

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import embedding, shapes, train
from benchmarks.machine import Machine
from benchmarks.measure import Measured
from benchmarks.plain_embedding import plain_loss, plain_model, plain_sample
from benchmarks.rows import Plan
from pipeline.methods.draws import FREE
from pipeline.methods.embedding.loss import Denoising
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.embedding.sampler import sample


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    sizes = {"vocab_size": 9, "width": 8, "length": 6, **shapes.FOUR}
    monkeypatch.setattr(shapes, "SIZES", {"gpt2": sizes})
    monkeypatch.setattr(train, "BATCH", {"gpt2": 4})
    monkeypatch.setattr(embedding, "BATCH", {"gpt2": 4})


def both(dtype: torch.dtype) -> tuple[EmbeddingDiffusion, EmbeddingDiffusion]:
    """The product's model and the plain one with the same random weights."""
    config = embedding.config_of()
    torch.manual_seed(0)
    ours, plain = EmbeddingDiffusion(config).to(dtype), plain_model(config).to(dtype)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    plain.network.load_state_dict(ours.network.state_dict())
    return ours, plain


def test_loss_and_gradients_are_the_product_s():
    ours, plain = both(torch.float64)
    objective, generator = Denoising(ours), torch.Generator().manual_seed(0)
    x0 = torch.randint(9, (16, 6), generator=generator)
    *drawn, noise = objective.draw(x0, generator)
    assert drawn[4].any()
    assert (drawn[1] != FREE).any()
    losses = objective.loss(*drawn, noise.double()), plain_loss(plain, *drawn, noise.double())
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    for loss in losses:
        loss.backward()
    gradients = [
        {name: each.grad for name, each in model.network.named_parameters()}
        for model in (ours, plain)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_samples_are_the_product_s():
    ours, plain = both(torch.float32)
    drawn, wanted = (
        function(model.eval(), 20, num_steps=5, generator=torch.Generator().manual_seed(0))
        for function, model in ((plain_sample, plain), (ddim, ours))
    )
    assert torch.equal(drawn, wanted)
    assert len(wanted.unique()) > 1


def ddim(model, num, num_steps, generator):
    how = {"num_steps": num_steps, "predictor": "ddim", "generator": generator}
    return sample(model, num, **how).tokens


@pytest.mark.parametrize(
    "side", [embedding.train_plain, partial(embedding.train_ours, compiled=False)]
)
def test_a_training_side_steps(side):
    assert side()()["gradient_mb"] > 0


@pytest.mark.parametrize("side", [embedding.sample_plain, embedding.sample_ours])
def test_a_sampling_side_samples(side):
    assert side()() == {}


def test_the_arithmetic_is_what_pytorch_counts():
    """But for the map of the estimate, which is as small as norms are."""
    model = plain_model(embedding.config_of())
    z, known = torch.randn(3, 6, 32), torch.full((3, 6), FREE)
    with (
        torch.no_grad(),
        FlopCounterMode(display=False) as counter,
        # Attention as two products, which the counter knows on every device.
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        vectors = model.network.vectors()
        level = model.level(torch.zeros(3))
        logits = model.network(z, level, known, vectors, torch.zeros_like(z))
        _ = logits.softmax(-1) @ vectors
    estimate_map = 2 * 3 * 6 * 32 * 8
    assert embedding.forward_flops(3) + estimate_map == counter.get_total_flops()


def test_both_sides_are_judged_by_the_same_arithmetic(monkeypatch):
    sides = {
        "plain": Measured([2.0], 1000.0, {"gradient_mb": 100.0}),
        "ours": Measured([1.0], 200.0, {"gradient_mb": 100.0}),
        "large": Measured([1.0], 210.0, {"gradient_mb": 100.0}),
    }

    def found(asked, *_, **__):
        return {name: sides[name] for name in asked}

    monkeypatch.setattr(embedding, "interleaved", found)
    plan, machine = Plan(quick=False), Machine(flops=100e9, bytes=10e9)
    [training], [sampling] = (
        group(plan, machine)
        for group in (embedding.train_gpt2_embedding, embedding.sample_gpt2_embedding)
    )
    assert training.ratio == sampling.ratio == 2
    assert training.ours.share == 2 * training.plain.share
    assert all(check.reached for row in (training, sampling) for check in row.checks)
    assert "100 MB (plain 900 MB); at V = 100,000 110 MB (1.10x)" in training.notes[1]
