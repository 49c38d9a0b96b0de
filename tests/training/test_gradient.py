"""The gradient of a batch in pieces, and its norm."""

import numpy as np
import pytest
import torch
from regression import BLOCKS, Regression
from torch import nn

from pipeline.training.gradient import accumulate_gradient, gradient_norm, pieces_of


@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_accumulated_gradient_is_that_of_the_whole_batch(pieces):
    method = Regression()
    method.module.double().eval()
    x0 = torch.from_numpy(BLOCKS[:8].astype(np.float64))
    drawn = method.draw(x0, torch.Generator().manual_seed(0))
    drawn = tuple(tensor.double() for tensor in drawn)
    whole_loss = accumulate_gradient(method, pieces_of(drawn, 1))
    whole = [p.grad.clone() for p in method.module.parameters()]
    method.module.zero_grad()
    loss = accumulate_gradient(method, pieces_of(drawn, pieces))
    torch.testing.assert_close(loss, whole_loss, rtol=1e-6, atol=0)
    for parameter, expected in zip(method.module.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_norm_is_closer_than_pytorchs_own():
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.empty(shape)) for shape in ((13_000, 1000), (7,), (2, 1))]
    for parameter in parameters[:2]:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    gradients = [parameter.grad for parameter in parameters[:2]]
    exact = torch.cat([gradient.double().flatten() for gradient in gradients]).norm()
    error, other = (
        abs(norm.double() / exact - 1)
        for norm in (gradient_norm(parameters), nn.utils.get_total_norm(gradients))
    )
    assert error < 5e-5
    assert error < other


def gradients_of(pieces: int, reduction: str, seeds: list[int] | None = None) -> list[torch.Tensor]:
    """By each parameter, and the loss, of 12 rows; with dropout if seeds are given."""
    method = Regression()
    method.module.train(seeds is not None)
    x0 = torch.from_numpy(BLOCKS[:12].astype(np.float32))
    drawn = pieces_of(method.draw(x0, torch.Generator().manual_seed(0)), pieces)
    loss = accumulate_gradient(method, drawn, reduction=reduction, seeds=seeds)
    return [loss, *(parameter.grad for parameter in method.module.parameters())]


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 6, 12])
def test_up_to_three_pieces_are_summed_as_they_come(pieces):
    both = zip(gradients_of(pieces, "fixed"), gradients_of(pieces, "fast"), strict=True)
    assert all(torch.equal(fixed, fast) for fixed, fast in both) == (pieces <= 3)


def test_what_a_piece_drops_out_depends_on_its_seed_alone():
    first, second = gradients_of(2, "fixed", [1, 2]), gradients_of(2, "fixed", [3, 2])
    halves = []
    for seed, rows in ((1, slice(6)), (3, slice(6)), (2, slice(6, 12))):
        method = Regression()
        x0 = torch.from_numpy(BLOCKS[:12].astype(np.float32))
        drawn = method.draw(x0, torch.Generator().manual_seed(0))
        torch.manual_seed(seed)
        halves.append(method.loss(*(each[rows] for each in drawn)).detach() / 12)
    assert torch.equal(first[0], halves[0] + halves[2])
    assert torch.equal(second[0], halves[1] + halves[2])
    assert not torch.equal(first[0], second[0])
