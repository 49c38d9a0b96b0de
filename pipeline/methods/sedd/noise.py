"""Noise schedules: total noise sigma(t) and its rate dsigma(t), SEDD section 5.1 and appendix C.

Both of times t in [0, 1], of any shape: the noise that has accumulated by then, and d sigma / dt.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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


Noise = Loglinear | Geometric
