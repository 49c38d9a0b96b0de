"""Bound and likelihood of a small model by visiting every state: no sampling, float64."""

import math

import numpy as np
import torch
from chains import kernel, law_of_orders
from torch import Tensor, nn
from toy import AnsweringNetwork, all_states, index_of, rates_of, toy_config, toy_distribution

from pipeline.methods.estimates import Bound
from pipeline.methods.sedd.bound import prior_nats
from pipeline.methods.sedd.graph import Graph
from pipeline.methods.sedd.loss import ScoreEntropy, masked_cross_entropy, score_entropy
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.weights import denoise_weights


def clean_states(model: SEDD) -> Tensor:
    """Every clean text [N, L]."""
    return all_states(model.config.vocab_size, model.length)


def transition(graph: Graph, x0: Tensor, sigma: Tensor) -> Tensor:
    """Chance [N, S] of every state given each row of x0 [N, L], by the matrix exponential."""
    states = all_states(graph.num_states, x0.shape[1])
    chances = torch.matrix_exp(sigma * rates_of(graph))[x0]
    places = range(x0.shape[1])
    return torch.stack([chances[:, place, states[:, place]] for place in places]).prod(0)


def tanh_sinh(low: float, num: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of an integral over (low, 1), dense at both ends."""
    s = torch.linspace(-3.2, 3.2, num, dtype=torch.float64)
    share = torch.sigmoid(math.pi * s.sinh())
    weight = math.pi * s.cosh() * share * torch.sigmoid(-math.pi * s.sinh())
    return low + (1 - low) * share, (1 - low) * weight * (s[1] - s[0])


class Tabulated(AnsweringNetwork):
    """A network that is asked about many rows at one sigma, and answers each state once."""

    def __init__(self, network: nn.Module, states: Tensor) -> None:
        super().__init__(network.head.out_features)
        self.network, self.states = network, states
        self.num_states = int(states.max()) + 1

    def forward(self, xt: Tensor, sigma: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        if sigma is not None:
            torch.testing.assert_close(sigma, sigma[:1].expand_as(sigma), rtol=1e-12, atol=0)
            sigma = sigma[:1].expand(len(self.states))
        answer = self.network(self.states, sigma)[index_of(xt, self.num_states)]
        return answer if at is None else answer[at]


@torch.no_grad()
def bound_by_quadrature(model: SEDD, num_nodes: int = 145) -> Bound:
    """The terms of the bound of every clean text, one replicate without Monte Carlo."""
    network = model.network
    model.network = Tabulated(network, all_states(model.graph.num_states, model.length))
    try:
        return _bound(model, num_nodes)
    finally:
        model.network = network


def _bound(model: SEDD, num_nodes: int) -> Bound:
    clean = clean_states(model)
    if model.timeless:
        integral = _masked_integral(model, clean)
        return Bound(integral[None], prior_nats(model, clean), torch.zeros_like(integral)[None])
    states = all_states(model.graph.num_states, model.length)
    x0 = clean.repeat_interleave(len(states), 0)
    xt = states.repeat(len(clean), 1)
    integral = torch.zeros(len(clean), dtype=torch.float64)
    for t, weight in zip(*tanh_sinh(model.t_min, num_nodes), strict=True):
        chances = transition(model.graph, clean, model.noise.sigma(t))
        nats = score_entropy(model, x0, xt, t.expand(len(xt))).positions.sum(-1).view_as(chances)
        integral += weight * (chances * nats).sum(-1)
    end = torch.tensor(model.t_min, dtype=torch.float64)
    chances = transition(model.graph, clean, model.noise.sigma(end))
    denoised = kernel(denoise_weights(model, states, end), clean).T
    reconstruction = -torch.where(chances > 0, chances * denoised.log(), 0.0).sum(-1)
    return Bound(integral[None], prior_nats(model, clean), reconstruction[None])


def _masked_integral(model: SEDD, clean: Tensor) -> Tensor:
    """The conditional loss over the move chance in (0, 1): a polynomial, so Gauss is exact."""
    masks = all_states(2, model.length).bool()
    nodes, weights = np.polynomial.legendre.leggauss(model.length + 1)
    x0 = clean.repeat_interleave(len(masks), 0)
    xt = torch.where(masks.repeat(len(clean), 1), model.graph.num_states - 1, x0)
    nats = masked_cross_entropy(model, x0, xt).positions.sum(-1).view(len(clean), len(masks))
    num_masks = masks.sum(-1).double()
    total = torch.zeros(len(clean), dtype=torch.float64)
    for chance, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        total += weight * nats @ (chance**num_masks * (1 - chance) ** (model.length - num_masks))
    return total


def prior(model: SEDD) -> Tensor:
    """The prior [S] that the bound is of, written out: independent positions."""
    num_states = model.graph.num_states
    one = torch.full((num_states,), 1 / num_states, dtype=torch.float64)
    if model.graph.mask_id is not None:
        survive = (-model.noise.sigma(torch.tensor(1.0, dtype=torch.float64))).exp()
        one = (survive / (num_states - 1)).repeat(num_states)
        one[model.graph.mask_id] = 1 - survive
    states = all_states(num_states, model.length)
    return one[states].prod(-1)


def generator_of(model: SEDD, sigma: Tensor) -> Tensor:
    """The reversed process over whole texts at sigma [K]: generators [K, S, S], sigma as clock."""
    num_states, length = model.graph.num_states, model.length
    states = all_states(num_states, length)
    xt = states.repeat(len(sigma), 1)
    score = model.log_score(xt, sigma.repeat_interleave(len(states))).double().exp()
    rate = model.graph.reverse_rate(xt, score).view(len(sigma), len(states), -1)
    place = num_states ** torch.arange(length - 1, -1, -1)
    moves = (torch.arange(num_states) - states[..., None]) * place[:, None]
    target = torch.arange(len(states))[:, None] + moves.flatten(1)
    full = torch.zeros(len(sigma), len(states), len(states), dtype=torch.float64)
    return full.scatter_add(-1, target.expand_as(rate), rate)


@torch.no_grad()
def exact_nats(model: SEDD, num_steps: int = 300) -> Tensor:
    """Exact -log likelihood [N] of every clean text under the process that the bound is of.

    Conditional: any order of reveals is equally likely. Raw: the master equation of the reversed
    process from the prior at t = 1 to t_min, then the final denoise; midpoint rule, in the
    logarithm of e^sigma - 1, where rates of both graphs stay of order 1.
    """
    clean = clean_states(model)
    if model.timeless:
        return -law_of_orders(model).log()
    ends = model.noise.sigma(torch.tensor([1.0, model.t_min], dtype=torch.float64))
    logit = ends.expm1().log()
    step = (logit[0] - logit[1]) / num_steps
    middles = logit[0] - step * (torch.arange(num_steps, dtype=torch.float64) + 0.5)
    sigma = middles.exp().log1p()
    law = prior(model)
    for piece in torch.split(sigma, 100):
        amount = step * -torch.expm1(-piece)
        for moved in torch.matrix_exp(amount[:, None, None] * generator_of(model, piece)):
            law = law @ moved
    states = all_states(model.graph.num_states, model.length)
    end = torch.tensor(model.t_min, dtype=torch.float64)
    return -(law @ kernel(denoise_weights(model, states, end), clean)).log()


@torch.enable_grad()
def trained_model(graph: str, parameterization: str, **changes: object) -> SEDD:
    """A network trained for a second on a correlated toy distribution, V <= 4 and L = 3."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 3 if graph == "absorb" else 4, "length": 3, "width": 16}
    usual = {"eps": 1e-3, "t_min": 1e-2, "scale_by_sigma": graph == "absorb"}
    config = toy_config(graph, parameterization, **(sizes | usual | changes))
    model = SEDD(config).double()
    method = ScoreEntropy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    p0 = toy_distribution(config.vocab_size, config.length).flatten()
    for _ in range(200):
        x0 = clean_states(model)[torch.multinomial(p0, 64, replacement=True, generator=generator)]
        optimizer.zero_grad()
        (method.loss(*method.draw(x0, generator)) / len(x0)).backward()
        optimizer.step()
    return model.eval()
