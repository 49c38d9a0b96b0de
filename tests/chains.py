"""Exact laws of samplers by enumeration in float64, and models that answer from a table."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from toy import all_states, exact_model, index_of, toy_config

from pipeline.methods.draws import FREE, Samples
from pipeline.methods.samplers import Grid
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.sampler import sample
from pipeline.methods.sedd.weights import denoise_weights, step_weights

NUM = 20_000
SAMPLERS = [
    *[("absorb", "conditional", name) for name in ("analytic", "euler", "cached", "first_hitting")],
    *[(graph, "raw", name) for graph in ("absorb", "uniform") for name in ("analytic", "euler")],
    *[("uniform", "conditional", name) for name in ("analytic", "euler")],
]
Change = Callable[[Tensor], Tensor]


def small_support(
    graph: str, parameterization: str, p0: Tensor | None = None, **changes: object
) -> tuple[SEDD, Tensor]:
    """An exact model that answers from a table: the same states come up thousands of times."""
    model, p0 = exact_model(graph, parameterization, p0, **changes)
    exact, states = model.network.forward, all_states(model.graph.num_states, model.length)
    tables: dict[float | None, Tensor] = {}

    def answer(xt: Tensor, sigma: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        key = None if sigma is None else float(sigma[0])
        if key not in tables:
            tables[key] = exact(states, None if sigma is None else sigma[:1].expand(len(states)))
        answered = tables[key][index_of(xt, model.graph.num_states)]
        return answered if at is None else answered[at]

    model.network.forward = answer  # type: ignore[method-assign]
    return model, p0


def transformer(
    length: int = 8,
    graph: str = "absorb",
    parameterization: str = "conditional",
    **changes: object,
) -> SEDD:
    """A network with random weights."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 7, "length": length, "num_blocks": 2}
    config = toy_config(graph, parameterization, **sizes, **changes)
    model = SEDD(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def draw(
    model: SEDD, num_steps: int, predictor: str, seed: int = 0, num: int = NUM, **options: object
) -> Samples:
    """Samples under a seed."""
    generator = torch.Generator().manual_seed(seed)
    return sample(
        model,
        num,
        num_steps=num_steps,
        predictor=predictor,  # type: ignore[arg-type]
        generator=generator,
        **options,  # type: ignore[arg-type]
    )


def kernel(weights: Tensor, targets: Tensor) -> Tensor:
    """Chance [S, S'] of each target [S', L] from position-wise weights [S, L, V]."""
    # What float64 leaves of a difference that is 0 is no weight.
    chances = torch.where(weights < 1e-12, 0.0, weights.double())
    chances = chances / chances.sum(-1, keepdim=True)
    joint = torch.ones(len(weights), len(targets), dtype=torch.float64)
    for position in range(targets.shape[1]):
        joint *= chances[:, position, targets[:, position]]
    return joint


def n_step_law(
    model: SEDD,
    num_steps: int,
    predictor: str,
    fixed: Tensor | None = None,
    change: Change = lambda weights: weights,
    grid: Grid = "uniform",
) -> Tensor:
    """The exact law over clean sequences of the n-step chain with its final denoise.

    `cached` shares that of `analytic`. `change` is made to the weights of every draw.
    """
    graph, length = model.graph, model.length
    rule = "euler" if predictor == "euler" else "analytic"
    states = all_states(graph.num_states, length)
    clean = all_states(model.config.vocab_size, length)
    mask_id = graph.mask_id
    alone = torch.ones(len(states)) if mask_id is None else (states == mask_id).all(-1)
    law = impose(alone.double() / alone.sum(), states, fixed, graph.num_states)
    share = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    if grid == "cosine":
        share = (torch.pi / 2 * (1 - share)).cos()
    times = model.t_min + (1 - model.t_min) * share
    times[-1] = model.t_min
    for t, next_t in itertools.pairwise(times):
        alive = law > 0
        weights = step_weights(model, states[alive], t, next_t, rule)
        law = law[alive] @ kernel(change(weights), states)
        law = impose(law, states, fixed, graph.num_states)
    alive = law > 0
    weights = denoise_weights(model, states[alive], times[-1])
    law = law[alive] @ kernel(change(weights), clean)
    return impose(law, clean, fixed, model.config.vocab_size)


def impose(law: Tensor, states: Tensor, fixed: Tensor | None, num_states: int) -> Tensor:
    """The law after the fixed positions are overwritten."""
    if fixed is None:
        return law
    moved = torch.where(fixed == FREE, states, fixed)
    return torch.zeros_like(law).index_add(0, index_of(moved, num_states), law)


def law_of_orders(model: SEDD, change: Change = lambda weights: weights) -> Tensor:
    """The exact law of one reveal at a time, all orders alike; `change` as in `n_step_law`."""
    clean = all_states(model.config.vocab_size, model.length)
    orders = list(itertools.permutations(range(model.length)))
    law = torch.zeros(len(clean), dtype=torch.float64)
    for order in orders:
        xt = torch.full_like(clean, model.graph.num_states - 1)
        chance = torch.ones(len(clean), dtype=torch.float64)
        for place in order:
            p = change(model.log_p(xt)[:, place].exp())
            token = clean[:, place]
            chance *= (p / p.sum(-1, keepdim=True)).gather(-1, token[:, None]).squeeze(-1)
            xt[:, place] = token
        law += chance / len(orders)
    return law


def given(p0: Tensor, fixed: Tensor) -> Tensor:
    """The data law [K] given what is fixed."""
    clean = all_states(p0.shape[0], p0.dim())
    agrees = ((fixed == FREE) | (clean == fixed)).all(-1)
    law = torch.where(agrees, p0.flatten(), 0.0)
    return law / law.sum()
