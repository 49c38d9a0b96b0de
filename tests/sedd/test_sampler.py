import itertools

import pytest
import torch
from toy import all_states, check_law, exact_model, index_of

from pipeline.sedd.sampler import (
    FREE,
    categorical,
    denoise_weights,
    reveal_chances,
    sample,
    step_weights,
)

CASES = [
    ("absorb", "conditional", "analytic"),
    ("absorb", "conditional", "euler"),
    ("absorb", "raw", "analytic"),
    ("absorb", "raw", "euler"),
    ("uniform", "raw", "analytic"),
    ("uniform", "raw", "euler"),
]
NUM = 20_000


def kernel(weights, targets):
    """Chance [S, S'] of each target [S', L] from position-wise weights [S, L, V]."""
    # What float64 leaves of a difference that is 0 is no weight.
    chances = torch.where(weights < 1e-12, 0.0, weights.double())
    chances = chances / chances.sum(-1, keepdim=True)
    joint = torch.ones(len(weights), len(targets), dtype=torch.float64)
    for position in range(targets.shape[1]):
        joint *= chances[:, position, targets[:, position]]
    return joint


def n_step_law(model, num_steps, predictor, fixed=None):
    """The exact law over clean sequences of the n-step chain with its final denoise."""
    graph, length = model.graph, model.length
    states = all_states(graph.num_states, length)
    clean = all_states(graph.num_states - (graph.mask_id is not None), length)
    if graph.mask_id is None:
        law = torch.full((len(states),), 1 / len(states), dtype=torch.float64)
    else:
        law = (states == graph.mask_id).all(-1).double()
    if fixed is not None:
        law = impose(law, states, fixed, graph.num_states)
    times = torch.linspace(1, model.t_min, num_steps + 1, dtype=torch.float64)
    alive = law > 0
    for t, next_t in itertools.pairwise(times):
        step = torch.zeros(len(states), len(states), dtype=torch.float64)
        step[alive] = kernel(step_weights(model, states[alive], t, next_t, predictor), states)
        law = law @ step
        if fixed is not None:
            law = impose(law, states, fixed, graph.num_states)
        alive = law > 0
    last = torch.zeros(len(states), len(clean), dtype=torch.float64)
    last[alive] = kernel(denoise_weights(model, states[alive], times[-1]), clean)
    law = law @ last
    return law if fixed is None else impose(law, clean, fixed, int(clean.max()) + 1)


def impose(law, states, fixed, num_states):
    """The law after the fixed positions are overwritten."""
    moved = torch.where(fixed == FREE, states, fixed)
    return torch.zeros_like(law).index_add(0, index_of(moved, num_states), law)


def draw(model, num_steps, predictor, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return sample(
        model, NUM, num_steps=num_steps, predictor=predictor, generator=generator, **options
    )


@pytest.mark.parametrize(("graph", "parameterization", "predictor"), CASES)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_samples_follow_the_exact_law_of_their_chain(graph, parameterization, predictor, num_steps):
    model, _ = small_support(graph, parameterization)
    samples = draw(model, num_steps, predictor)
    num_tokens = model.config.vocab_size
    assert samples.tokens.min() >= 0
    assert samples.tokens.max() < num_tokens
    check_law(index_of(samples.tokens, num_tokens), n_step_law(model, num_steps, predictor))


def small_support(graph, parameterization):
    """An exact model that answers from a table: the same states come up thousands of times."""
    model, p0 = exact_model(graph, parameterization)
    exact, states = model.network.forward, all_states(model.graph.num_states, model.length)
    tables = {}

    def answer(xt, sigma=None):
        key = None if sigma is None else float(sigma[0])
        if key not in tables:
            tables[key] = exact(states, None if sigma is None else sigma[:1].expand(len(states)))
        return tables[key][index_of(xt, model.graph.num_states)]

    model.network.forward = answer
    return model, p0


@pytest.mark.parametrize("predictor", ["analytic", "euler"])
@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_infilling_follows_the_exact_law_given_the_fixed_tokens(parameterization, predictor):
    model, _ = small_support("absorb", parameterization)
    fixed = torch.tensor([FREE, 2])
    samples = draw(model, 3, predictor, fixed=fixed)
    assert bool((samples.tokens[:, 1] == 2).all())
    check_law(index_of(samples.tokens, 3), n_step_law(model, 3, predictor, fixed))


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_bias_of_n_steps_falls_as_one_over_n(graph):
    model, p0 = small_support(graph, "raw")
    distance = [
        (n_step_law(model, n, "analytic") - p0.flatten()).abs().sum().item() / 2
        for n in (16, 32, 64)
    ]
    assert distance[0] > 1e-4
    assert distance[1] / distance[0] == pytest.approx(0.5, abs=0.06)
    assert distance[2] / distance[1] == pytest.approx(0.5, abs=0.03)


def test_conditional_and_raw_share_the_law_of_the_analytic_step():
    raw, conditional = (small_support("absorb", p)[0] for p in ("raw", "conditional"))
    laws = [n_step_law(model, 4, "analytic") for model in (raw, conditional)]
    torch.testing.assert_close(*laws, rtol=0, atol=1e-4)


@pytest.mark.parametrize("predictor", ["analytic", "euler"])
def test_nfe_counts_the_evaluations_that_included_a_row(predictor):
    model, _ = exact_model("absorb", "conditional", length=3)
    seen = []
    exact = model.network

    def counting(xt, sigma=None):
        seen.append(len(xt))
        return exact.__class__.forward(exact, xt, sigma)

    model.network.forward = counting
    generator = torch.Generator().manual_seed(1)
    samples = sample(model, 200, num_steps=5, predictor=predictor, generator=generator)
    assert samples.calls == len(seen)
    assert int(samples.nfe.sum()) == sum(seen)
    assert int(samples.nfe.max()) <= 3


def test_mean_nfe_is_the_expected_number_of_steps_that_reveal_something():
    model, _ = small_support("absorb", "conditional")
    num_steps = 7
    times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    chances = reveal_chances(model, times, "analytic")
    assert chances.sum().item() == pytest.approx(1)
    expected = (1 - (1 - chances) ** model.length).sum().item()
    nfe = draw(model, num_steps, "analytic").nfe.double()
    assert nfe.mean().item() == pytest.approx(expected, abs=4 * nfe.std().item() / NUM**0.5)
    in_closed_form = num_steps * (1 - (1 - 1 / num_steps) ** model.length)
    assert expected == pytest.approx(in_closed_form, rel=1e-6)


def test_raw_rows_stop_being_evaluated_once_nothing_can_change():
    model, _ = small_support("absorb", "raw")
    samples = draw(model, 4, "analytic")
    assert int(samples.nfe.max()) <= 5
    assert int(samples.nfe.min()) >= 1
    uniform = draw(small_support("uniform", "raw")[0], 4, "analytic")
    assert bool((uniform.nfe == 5).all())


@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_states_run_from_all_masks_to_the_samples(parameterization):
    model, _ = small_support("absorb", parameterization)
    states = []
    samples = draw(model, 4, "analytic", on_state=lambda step, t, xt: states.append((step, t, xt)))
    assert [step for step, _, _ in states] == list(range(6))
    assert states[0][1] == 1.0
    assert states[-1][1] == 0.0
    assert bool((states[0][2] == 3).all())
    torch.testing.assert_close(states[-1][2], samples.tokens)
    for (_, _, before), (_, _, after) in itertools.pairwise(states):
        kept = before != 3
        torch.testing.assert_close(before[kept], after[kept])


def test_same_seed_same_samples():
    model, _ = small_support("absorb", "conditional")
    first, again, other = (draw(model, 3, "analytic", seed=seed).tokens for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "options", [{"num_steps": 0}, {"length": 3}, {"length": 0}, {"fixed": torch.zeros(5)}]
)
def test_impossible_requests_are_refused(options):
    model, _ = exact_model("absorb", "conditional")
    generator = torch.Generator().manual_seed(0)
    options = {"num_steps": 2} | options
    with pytest.raises(ValueError, match=r"length|shape"):
        sample(model, 1, predictor="analytic", generator=generator, **options)


def test_draws_are_right_in_the_tails():
    """A state of mass 1e-9 must come up at that rate: here from uniforms near its interval."""
    probs = torch.full((1_000_000, 2), 1e-6, dtype=torch.float32)
    probs[:, 0] = 1 - 1e-6
    generator = torch.Generator().manual_seed(0)
    drawn = sum(int(categorical(probs, generator).sum()) for _ in range(20))
    assert 20 - 4 * 20**0.5 < drawn < 20 + 4 * 20**0.5


def test_a_draw_never_picks_a_state_without_mass():
    probs = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0]).expand(100_000, -1)
    drawn = categorical(probs, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 3}
