"""On a GPU rows and noise of a step are read and drawn while the one before is computed."""

import threading
from dataclasses import replace

import torch
from emulated_cuda import DEVICE, emulated_cuda
from regression import BLOCKS, Regression
from toy import SETTINGS

from pipeline.scale.world import ALONE
from pipeline.training.ahead import Ahead
from pipeline.training.schedule import Order


class Watched:
    """Blocks that tell which rows are read, and by which thread."""

    def __init__(self):
        self.reads = []
        self.read = threading.Semaphore(0)

    def __getitem__(self, indices):
        self.reads.append((indices.tolist(), threading.current_thread()))
        self.read.release()
        return BLOCKS[indices]


class Here(Regression):
    def located(self, *piece):
        return piece


def test_rows_of_the_next_step_are_read_before_it_is_asked_for():
    settings = replace(SETTINGS, batch_size=4, accumulate=2)
    blocks, order = Watched(), Order(len(BLOCKS), 0)
    with emulated_cuda():
        ahead = Ahead(Here(), torch.device("cuda"), settings, ALONE)
        for step in range(3):
            pieces = ahead.take(step, blocks, order)
            assert blocks.read.acquire(timeout=10)
            if not step:
                assert blocks.read.acquire(timeout=10)
            # Read by another thread, and once each.
            assert [rows for rows, _ in blocks.reads] == [
                Order(len(BLOCKS), 0).batch(number, 4).tolist() for number in range(step + 2)
            ]
            assert blocks.reads[-1][1] is not threading.current_thread()
            assert {each.device for piece in pieces for each in piece} == {torch.device(DEVICE)}
            found = torch.cat([piece[0] for piece in pieces]).cpu()
            assert found.tolist() == BLOCKS[blocks.reads[step][0]].tolist()
