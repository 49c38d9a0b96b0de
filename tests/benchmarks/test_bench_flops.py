"""The arithmetic that is counted, against what PyTorch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toy import toy_config

from benchmarks.flops import TRAINING
from benchmarks.plain import plain_model
from benchmarks.shapes import shape_of

ROWS = 3
SIZES = {"vocab_size": 11, "length": 6, "num_blocks": 2}


@pytest.mark.parametrize("parameterization", ["raw", "conditional"])
def test_a_forward_pass(parameterization):
    config = toy_config("absorb", parameterization, **SIZES)
    network = plain_model(config).network
    xt = torch.randint(11, (ROWS, 6))
    sigma = torch.rand(ROWS) if parameterization == "raw" else None
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        # Attention as two products, which the counter knows on every device.
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        network(xt, sigma)
    assert shape_of(config).forward(ROWS) == counter.get_total_flops()


def test_outputs_at_some_positions_and_one_sigma_for_all_rows():
    shape = shape_of(toy_config("absorb", "raw", **SIZES))
    head = 2 * (shape.width * shape.num_outputs + 9 * shape.width**2)
    modulation = 2 * (256 * 4 + 4**2 + (6 * 2 + 2) * 4 * 8)
    assert shape.forward(ROWS) - shape.forward(ROWS, head_positions=5) == (18 - 5) * head
    assert shape.forward(ROWS) - shape.forward(ROWS, sigmas=1) == 2 * modulation
    projection = 2 * 3 * shape.width**2
    assert shape.forward(ROWS) - shape.forward(ROWS, first_positions=11) == (18 - 11) * projection


def test_a_training_step_counts_three_forwards():
    assert TRAINING == 3
