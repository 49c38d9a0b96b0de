"""What the reference computed for a fixture, computed again by this project's own code."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from pipeline.methods.sedd.graph import Uniform
from pipeline.methods.sedd.loss import score_entropy
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.weights import denoise_weights, step_weights


@torch.no_grad()
def recompute(model: SEDD, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every computed array, from the inputs t, x0, x_t and step_size alone.

    Args:
        model: the fixture's model, in eval mode; its device and weights' dtype are used.
        arrays: the inputs, on any device.
    Returns:
        arrays by name, shaped as in the fixture, on the model's device.
    """
    device = model.device
    t, x0, xt = (arrays[name].to(device) for name in ("t", "x0", "x_t"))
    t = t.double()
    dsigma = model.noise.dsigma(t)
    entropy = score_entropy(model, x0, xt, t).positions / dsigma[:, None]
    if isinstance(model.graph, Uniform):
        entropy = entropy + reference_rounding(model.graph, x0, xt, model.noise.sigma(t))
    step_size = float(arrays["step_size"])
    rows = list(zip(xt[:, None], t, strict=True))

    def stepped(predictor: Literal["euler", "analytic"]) -> Tensor:
        return torch.cat([step_weights(model, x, at, at - step_size, predictor) for x, at in rows])

    return {
        "sigma": model.noise.sigma(t),
        "dsigma": dsigma,
        "log_score": model.log_score(xt, model.noise.sigma(t).to(model.dtype)),
        "score_entropy": entropy,
        "loss": (dsigma[:, None] * entropy).sum(-1),
        "euler_probs": stepped("euler"),
        "analytic_probs": stepped("analytic"),
        "denoise_probs": torch.cat([denoise_weights(model, x, at) for x, at in rows]),
    }


def reference_rounding(graph: Uniform, x0: Tensor, xt: Tensor, sigma: Tensor) -> Tensor:
    """By how much the reference's uniform score entropy misses the exact one [B, L], float64.

    The reference writes the ratio p(y | x0) / p(x0 | x0), y not x0, as 1 - V / (e^sigma - 1 + V)
    in float32, where digits cancel. Where a token has moved it divides the entropy's constant,
    (-(log ratio + 1) / ratio - (V - 2)) / V: at sigma = 0.057 and V = 19 the reference's loss is
    off by 2.4e-5, more than the tolerance, and ours by 3e-7.
    """
    num_states = graph.num_states
    noise = torch.expm1(sigma.double()).cpu()
    rounded = (1 - num_states / (torch.expm1(sigma.float().cpu()) + num_states)).double()
    exact = noise / (noise + num_states)

    def constant(ratio: Tensor) -> Tensor:
        return -(ratio.log() + 1) / ratio / num_states

    missed = (constant(rounded) - constant(exact)).to(xt.device)
    return torch.where(xt == x0, 0.0, missed[:, None])
