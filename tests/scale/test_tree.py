"""The order in which pieces are summed."""

import pytest
import torch
from torch import nn

from pipeline.scale.tree import PartialSums, tree


def numbers(num: int) -> list[torch.Tensor]:
    """Of sizes so different that another order of addition gives another sum."""
    generator = torch.Generator().manual_seed(num)
    return list(torch.randn(num, 500, generator=generator) * 10 ** torch.rand(num, 1) * 100)


def test_an_even_number_is_halved_and_an_odd_one_is_summed_from_left_to_right():
    a, b, c, d, e, f, g, h = numbers(8)
    assert torch.equal(tree([a]), a)
    assert torch.equal(tree([a, b, c]), a + b + c)
    assert torch.equal(tree([a, b, c, d]), (a + b) + (c + d))
    assert torch.equal(tree([a, b, c, d, e, f]), (a + b + c) + (d + e + f))
    eight = ((a + b) + (c + d)) + ((e + f) + (g + h))
    assert torch.equal(tree([a, b, c, d, e, f, g, h]), eight)
    assert not torch.equal(eight, sum([b, c, d, e, f, g, h], a))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("num", [4, 8, 12, 24])
def test_subtrees_of_ranks_make_up_the_whole(num, size):
    parts = numbers(num)
    share = num // size
    subtrees = [tree(parts[first : first + share]) for first in range(0, num, share)]
    assert torch.equal(tree(subtrees), tree(parts))


@pytest.mark.parametrize("num", range(1, 17))
@pytest.mark.parametrize("elsewhere", [False, True])
def test_gradients_that_come_one_by_one_are_summed_in_that_order(num, elsewhere):
    parts = numbers(num)
    weight = nn.Parameter(torch.zeros(500))
    sums = PartialSums([weight, nn.Parameter(torch.zeros(1))], num)
    most = 0
    for number, part in enumerate(parts):
        if number:
            sums.next_piece()
        weight.grad = part.clone() if weight.grad is None else weight.grad + part
        most = max(most, len(sums._held))
    if elsewhere:
        gradient = weight.grad.clone()
        sums.add_to([weight], [gradient])
    else:
        sums.finish()
        gradient = weight.grad
    assert torch.equal(gradient, tree(parts))
    assert most <= max(num - 1, 0).bit_length()
