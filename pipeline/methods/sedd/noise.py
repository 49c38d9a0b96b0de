"""Noise schedules: total noise sigma(t) and its rate dsigma(t), SEDD section 5.1 and appendix C."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """A schedule of noise over time t in [0, 1]."""

    def sigma(self, t: Tensor) -> Tensor:
        """Total noise accumulated by time t, any shape."""
        ...

    def dsigma(self, t: Tensor) -> Tensor:
        """The rate d sigma / dt at time t, same shape."""
        ...


@dataclass(frozen=True)
class Loglinear:
    """sigma = -log(1 - (1 - eps) t): the move chance grows linearly, to 1 - eps."""

    eps: float

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.log1p(-(1 - self.eps) * t)

    def dsigma(self, t: Tensor) -> Tensor:
        return (1 - self.eps) / (1 - (1 - self.eps) * t)


@dataclass(frozen=True)
class Geometric:
    """sigma = sigma_min^(1 - t) sigma_max^t."""

    sigma_min: float
    sigma_max: float

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min ** (1 - t) * self.sigma_max**t

    def dsigma(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)
