"""When steps are taken, and how much each forgets: times, and kappa by time.

A step from time t to s draws each position from

    kappa q(xs | xt, x0) + (1 - kappa) q(xs | x0),    x0 from the model's p(x0 | xt).

With the exact p(x0 | xt) a position's law at s is the process's own at any kappa, as both terms
have it. 1 is the ancestral step, 0 forgets xt. With masks a token is taken back with the chance
(1 - kappa) (1 - alpha_s), which is sigma_t of ReMDM (arXiv 2503.00307); alpha is e^-sigma.
"""

import math

import torch
from torch import Tensor

from pipeline.methods.samplers import Stepping
from pipeline.methods.sedd.model import SEDD


def step_times(model: SEDD, num_steps: int, stepping: Stepping) -> Tensor:
    """Times [num_steps + 1] in float64, from 1 to the model's t_min, never rising.

    `cosine` takes small steps at first: i steps of n are at cos(pi i / 2n) of the way back. With
    corrector `loop` every second step is spent at the time `hold`, where alpha stays as it is.
    """
    num_held = num_steps // 2 if stepping.corrector == "loop" and num_steps > 2 else 0
    times = torch.linspace(1, model.t_min, num_steps - num_held + 1, dtype=torch.float64)
    if stepping.grid == "cosine":
        share = torch.linspace(0, math.pi / 2, len(times), dtype=torch.float64).cos()
        times[1:-1] = (model.t_min + (1 - model.t_min) * share)[1:-1]
    if not num_held:
        return times
    hold = max(stepping.hold, model.t_min)
    nearest = 1 + int((times[1:-1] - hold).abs().argmin())
    times[nearest] = hold
    held = times[nearest].expand(num_held)
    return torch.cat([times[:nearest], held, times[nearest:]])


def kappas(model: SEDD, times: Tensor, stepping: Stepping) -> Tensor:
    """kappa [n] of each of n steps between times [n + 1].

    By the chance to forget a token and draw it anew, or a mask for it: `cap` eta, `rescale` eta
    times the largest, `loop` as `cap` where time stands still, `forward_backward` eta times the
    chance that the process moves a token on its way back from s to t; never above the largest.
    """
    alpha = (-model.noise.sigma(times)).exp()
    before, after = alpha[:-1], alpha[1:]
    moved = 1 - after
    largest = moved * (1 - model.graph.least_kappa(before, after))
    eta = torch.full_like(moved, stepping.eta)
    forgotten = {
        "cap": eta,
        "rescale": eta * largest,
        "loop": torch.where(before == after, eta, 0.0),
        "forward_backward": eta * (1 - before / after),
        "conf": eta * largest,
    }.get(stepping.corrector, torch.zeros_like(eta))
    # Without noise at s nothing is forgotten, whatever kappa.
    return torch.where(moved > 0, 1 - torch.minimum(forgotten, largest) / moved, 1.0)


def mask_chances(model: SEDD, times: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor]:
    """Chances [n + 1] of a mask to stay one, and of a token to become one, in each of n steps.

    The last step is the final denoise, which leaves no mask.
    """
    move_chance = -torch.expm1(-model.noise.sigma(times))
    before, after = move_chance[:-1], move_chance[1:]
    stay = after * (kappa / before + 1 - kappa)
    end = torch.zeros_like(stay[:1])
    return torch.cat([stay, end]), torch.cat([(1 - kappa) * after, end])
