import pytest
import torch

from pipeline.methods.sedd.noise import Geometric, Loglinear

SCHEDULES = [Loglinear(1e-3), Loglinear(0.2), Geometric(1e-4, 20.0)]


@pytest.mark.parametrize("noise", SCHEDULES, ids=str)
def test_dsigma_is_the_derivative_of_sigma(noise):
    t = torch.linspace(1e-4, 1, 101, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(noise.sigma(t).sum(), t)
    torch.testing.assert_close(noise.dsigma(t), slope, rtol=1e-12, atol=0)


@pytest.mark.parametrize("eps", [1e-3, 0.3])
def test_loglinear_weight_of_the_conditional_loss_is_one_over_t(eps):
    t = torch.linspace(1e-6, 1, 101, dtype=torch.float64)
    noise = Loglinear(eps)
    weight = noise.dsigma(t) / torch.expm1(noise.sigma(t))
    torch.testing.assert_close(weight, 1 / t, rtol=1e-9, atol=0)


def test_loglinear_move_chance_is_linear():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(1 - (-Loglinear(0.01).sigma(t)).exp(), 0.99 * t)


def test_geometric_runs_between_its_ends():
    ends = Geometric(1e-4, 20.0).sigma(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([1e-4, 20.0], dtype=torch.float64))
