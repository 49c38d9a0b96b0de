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
