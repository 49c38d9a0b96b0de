"""Memory of gradients that one step leaves to the next: the same memory, and the same gradients."""

import gc

import numpy as np
import pytest
import torch
from test_tiled import LENGTH, VOCAB, a_model, drawn_for, every_variant
from torch import nn

from benchmarks.train import settings_of
from pipeline.kernels import gradient_memory
from pipeline.kernels.gradient_memory import clear_gradients, free_gradient_memory
from pipeline.kernels.tiled import tiled_nats
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.network.layers import Embedding
from pipeline.training.gradient import accumulate_gradient, pieces_of
from pipeline.training.loop import Trainer
from pipeline.training.schedule import Order

HANDED_ON = ["network.vocab_embed.embedding", "network.output_layer.linear.weight"]


@pytest.fixture(autouse=True)
def _freed():
    free_gradient_memory()
    yield
    free_gradient_memory()


def gradient_places(model):
    return {name: weight.grad.data_ptr() for name, weight in model.named_parameters()}


def held_for(model):
    """The names of weights that have memory for their next gradient."""
    left = gradient_memory._left
    return {name for name, weight in model.named_parameters() if left.get(weight) is not None}


def spoil(model):
    """Leave memory that is full of what no gradient holds."""
    for weight in model.parameters():
        weight.grad.fill_(torch.nan)
    clear_gradients(model.parameters())


@every_variant
@pytest.mark.parametrize(("pieces", "precision"), [(1, "float32"), (2, "float32"), (1, "bfloat16")])
def test_gradients_stand_in_the_memory_of_the_last_step(graph, parameterization, pieces, precision):
    model = a_model(graph, parameterization, torch.float32)
    drawn = drawn_for(model)
    accumulate_gradient(ScoreEntropy(model), pieces_of(drawn, pieces), precision)
    fresh = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    places = gradient_places(model)
    spoil(model)
    # What was freed would be given to them.
    others = [torch.empty_like(weight) for weight in model.parameters()]
    accumulate_gradient(ScoreEntropy(model), pieces_of(drawn, pieces), precision)
    again = gradient_places(model)
    for name in HANDED_ON:
        assert again[name] == places[name], name
    for name, weight in model.named_parameters():
        assert torch.equal(weight.grad, fresh[name]), name
    del others


def test_two_gradients_of_a_step_share_no_memory():
    model = a_model("absorb", "raw", torch.float32)
    drawn = drawn_for(model)
    accumulate_gradient(ScoreEntropy(model), pieces_of(drawn, 1))
    clear_gradients(model.parameters())
    method = ScoreEntropy(model)
    first, second = (
        torch.autograd.grad(method.loss(*drawn), list(model.parameters())) for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert one.data_ptr() != other.data_ptr()
        assert torch.equal(one, other)


def test_without_a_position_the_gradient_is_zero():
    head = nn.Linear(4, 6)
    for rows in (3, 0):
        hidden = torch.ones(rows, 4, requires_grad=True)
        tiled_nats(hidden, head, lambda outputs, columns: outputs.sum(-1)).total.backward()
        if rows:
            spoil(head)
    assert torch.equal(head.weight.grad, torch.zeros(6, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_looking_up_has_pytorchs_gradient(dtype):
    torch.manual_seed(0)
    embedding, ids = Embedding(50, 8).to(dtype), torch.randint(50, (7, 60))
    by_output = torch.randn(7, 60, 8, dtype=dtype)
    embedding(ids).backward(by_output)
    expected = torch.ops.aten.embedding_dense_backward(by_output, ids, 50, -1, False)
    assert torch.equal(embedding.embedding.grad, expected)


def test_memory_is_held_for_weights_that_ask_alone_and_while_they_live():
    model, other = a_model("absorb", "raw", torch.float32), nn.Linear(2, 2)
    accumulate_gradient(ScoreEntropy(model), pieces_of(drawn_for(model), 1))
    other(torch.ones(1, 2)).sum().backward()
    clear_gradients([*model.parameters(), *other.parameters()])
    assert all(weight.grad is None for weight in [*model.parameters(), *other.parameters()])
    assert held_for(model) == set(HANDED_ON)
    del model
    gc.collect()
    assert not gradient_memory._left


def test_training_steps_hand_it_on():
    model = a_model("absorb", "raw", torch.float32)
    settings = settings_of("char", batch_size=4)
    trainer = Trainer(ScoreEntropy(model), settings, torch.device("cpu"))
    blocks = np.random.default_rng(0).integers(VOCAB, size=(8, LENGTH), dtype=np.uint16)
    order, places = Order(len(blocks), seed=0), []
    for _ in range(3):
        trainer.train_step(blocks, order)
        assert held_for(model) == set(HANDED_ON)
        places.append([memory.data_ptr() for memory in gradient_memory._left.values()])
    assert places[0] == places[1] == places[2]


def test_memory_of_another_type_is_not_used():
    model = a_model("absorb", "raw", torch.float32)
    accumulate_gradient(ScoreEntropy(model), pieces_of(drawn_for(model), 1))
    clear_gradients(model.parameters())
    model.double()
    accumulate_gradient(ScoreEntropy(model), pieces_of(drawn_for(model), 1))
    again = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    free_gradient_memory()
    model.zero_grad()
    accumulate_gradient(ScoreEntropy(model), pieces_of(drawn_for(model), 1))
    for name, weight in model.named_parameters():
        assert torch.equal(weight.grad, again[name]), name
