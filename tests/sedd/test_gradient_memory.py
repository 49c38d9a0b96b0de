"""Memory of gradients that one step leaves to the next: the same memory, and the same gradients."""

import gc

import pytest
import torch
from test_tiled import drawn_for, every_variant, random_model
from torch import nn

from pipeline.sedd import gradient_memory
from pipeline.sedd.gradient_memory import clear_gradients, free_gradient_memory
from pipeline.sedd.layers import Embedding
from pipeline.sedd.loss import ScoreEntropy
from pipeline.sedd.tiled import tiled_nats
from pipeline.training.gradient import accumulate_gradient

HANDED_ON = ["network.vocab_embed.embedding", "network.output_layer.linear.weight"]


@pytest.fixture(autouse=True)
def _freed():
    free_gradient_memory()
    yield
    free_gradient_memory()


def gradient_places(model):
    return {name: weight.grad.data_ptr() for name, weight in model.named_parameters()}


def spoil(model):
    """Leave memory that is full of what no gradient holds."""
    for weight in model.parameters():
        weight.grad.fill_(torch.nan)
    clear_gradients(model.parameters())


@every_variant
@pytest.mark.parametrize("pieces", [1, 2])
def test_gradients_stand_in_the_memory_of_the_last_step(graph, parameterization, pieces):
    model = random_model(graph, parameterization, torch.float32)
    drawn = drawn_for(model)
    accumulate_gradient(ScoreEntropy(model), drawn, pieces)
    fresh = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    places = gradient_places(model)
    spoil(model)
    # What was freed would be given to them.
    others = [torch.empty_like(weight) for weight in model.parameters()]
    accumulate_gradient(ScoreEntropy(model), drawn, pieces)
    again = gradient_places(model)
    for name in HANDED_ON:
        assert again[name] == places[name], name
    for name, weight in model.named_parameters():
        assert torch.equal(weight.grad, fresh[name]), name
    assert not {each.data_ptr() for each in others} & set(again.values())


def test_two_gradients_of_a_step_share_no_memory():
    model = random_model("absorb", "raw", torch.float32)
    drawn = drawn_for(model)
    accumulate_gradient(ScoreEntropy(model), drawn, 1)
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
        tiled_nats(hidden, head, lambda outputs, rows, columns: outputs.sum(-1)).total.backward()
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
    model, other = random_model("absorb", "raw", torch.float32), nn.Linear(2, 2)
    accumulate_gradient(ScoreEntropy(model), drawn_for(model), 1)
    other(torch.ones(1, 2)).sum().backward()
    clear_gradients([*model.parameters(), *other.parameters()])
    assert all(weight.grad is None for weight in [*model.parameters(), *other.parameters()])
    held = {weight for weight, memory in gradient_memory._left.items() if memory is not None}
    named = dict(model.named_parameters())
    assert held == {named[name] for name in HANDED_ON}
    del model, named, held
    gc.collect()
    assert not gradient_memory._left
