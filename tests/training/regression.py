"""A method small enough to train in no time."""

import numpy as np
import torch
from torch import nn

BLOCKS = np.random.default_rng(0).integers(0, 5, (40, 3)).astype(np.uint16)


class Regression:
    """A method with data, noise and dropout: everything that a resumed run must repeat."""

    def __init__(self):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def draw(self, x0, generator):
        return x0, torch.randn(len(x0), 3, generator=generator)

    def loss(self, *drawn):
        x0, noise = drawn
        return ((self.module(x0 + 0.1 * noise).squeeze(-1) - x0.sum(-1)) ** 2).sum()

    def finish_step(self, of_all=None):
        self.module.zero_grad()
