"""Orders that the model chooses, and times of steps: their enumerated laws."""

import math

import pytest
import torch
from chains import draw, kernel, n_step_law, small_support, transformer
from toy import all_states, check_law, exact_model, index_of, total_variation

from pipeline.methods.draws import FREE
from pipeline.methods.samplers import Stepping
from pipeline.methods.sedd.order import UNSURENESS
from pipeline.methods.sedd.schedule import step_times

CHOSEN = ["confidence", "margin"]


def surest(p, order):
    """Which of a position's distributions [n, V] comes first, the smallest number first."""
    ordered = p.sort(-1, descending=True).values
    return {
        "confidence": -ordered[:, 0],
        "margin": ordered[:, 1] - ordered[:, 0],
        "entropy_bound": -torch.xlogy(p, p).sum(-1),
    }[order]


@torch.no_grad()
def law_of_order(model, stepping, left=()):
    """The law over clean texts; `left` masks after each step, with entropy_bound as gamma says."""
    states, mask_id = all_states(model.graph.num_states, model.length), model.graph.mask_id
    law = (states == mask_id).all(-1).double()
    p = model.log_p(states).exp()
    for step in range(model.length if stepping.order == "entropy_bound" else len(left)):
        weights = torch.nn.functional.one_hot(states, model.graph.num_states).double()
        for row in range(len(states)):
            masks = (states[row] == mask_id).nonzero().flatten()
            if not len(masks):
                continue
            unsure = surest(p[row, masks], stepping.order)
            order = unsure.argsort(stable=True)
            if stepping.order == "entropy_bound":
                sums = [unsure[order[:k]].sum().item() for k in range(len(masks))]
                count = sum(total <= stepping.gamma for total in sums)
            else:
                count = max(0, len(masks) - left[step])
            for place in masks[order[:count]]:
                weights[row, place] = torch.cat([p[row, place], torch.zeros(1)])
        law = law @ kernel(weights, states)
    clean = (states != mask_id).all(-1)
    assert law[clean].sum().item() == pytest.approx(1)
    return law[clean]


@pytest.mark.parametrize("order", CHOSEN)
@pytest.mark.parametrize(("num_steps", "left"), [(2, [2, 0]), (3, [2, 1, 0]), (1, [0])])
def test_orders_follow_their_enumerated_law(order, num_steps, left):
    model, _ = small_support("absorb", "conditional", length=3)
    stepping = Stepping(order=order)
    samples = draw(model, num_steps, "auto", stepping=stepping)
    check_law(index_of(samples.tokens, 3), law_of_order(model, stepping, left))
    assert bool((samples.nfe == num_steps).all())


@pytest.mark.parametrize("gamma", [0.0, 0.9, 50.0])
def test_entropy_bound_follows_its_enumerated_law(gamma):
    model, p0 = small_support("absorb", "conditional", length=3)
    stepping = Stepping(order="entropy_bound", gamma=gamma)
    samples = draw(model, 1, "auto", stepping=stepping)
    law = law_of_order(model, stepping)
    check_law(index_of(samples.tokens, 3), law)
    mean = samples.nfe.double().mean().item()
    assert mean == 3 if gamma == 0 else mean == 1 if gamma == 50 else 1 < mean < 3
    if gamma == 50:
        independent = n_step_law(model, 1, "analytic")
        torch.testing.assert_close(law, independent, rtol=0, atol=1e-12)
        assert total_variation(law, p0.flatten()) > 0.1


def test_one_at_a_time_with_the_exact_model_any_order_has_the_data_law():
    """That their law is not the model's is the model's doing: it answers orders differently."""
    model, p0 = small_support("absorb", "conditional", length=3)
    for order in CHOSEN:
        law = law_of_order(model, Stepping(order=order), [2, 1, 0])
        torch.testing.assert_close(law, p0.flatten(), rtol=0, atol=1e-12)


def test_orders_differ_in_what_they_call_sure():
    weights = 7 * torch.tensor([[0.5, 0.49, 0.01], [0.48, 0.3, 0.22], [0.46, 0.27, 0.27]])
    first = {name: int(of(weights, None, None).argmin()) for name, of in UNSURENESS.items()}
    assert first == {"confidence": 0, "margin": 2, "entropy_bound": 0}
    lead = UNSURENESS["margin"](weights, None, None).tolist()
    assert lead == pytest.approx([-0.01, -0.18, -0.19])


@pytest.mark.parametrize("order", [*CHOSEN, "entropy_bound"])
def test_fixed_positions_stay_and_evaluations_are_counted(order):
    model, states = transformer(5), []
    fixed, stepping = torch.tensor([FREE, 3, FREE, FREE, 0]), Stepping(order=order, gamma=0.0)
    how = {"num": 40, "fixed": fixed, "stepping": stepping}
    samples = draw(model, 9, "auto", on_state=lambda *s: states.append(s), **how)
    assert bool((samples.tokens == fixed)[:, fixed != FREE].all())
    assert int(samples.tokens.max()) < 7
    assert bool((samples.nfe == 3).all())
    assert states[-1][0] == 10
    assert torch.equal(states[-1][2], samples.tokens)
    nothing = draw(model, 3, "auto", stepping=stepping, num=2, fixed=torch.arange(5))
    assert nothing.calls == 0


def test_cosine_times_take_small_steps_first():
    model, _ = exact_model("absorb", "raw", t_min=0.1)
    times = step_times(model, 6, Stepping(grid="cosine")).tolist()
    expected = [0.1 + 0.9 * math.cos(math.pi * k / 12) for k in range(7)]
    assert times == pytest.approx(expected)
    assert (times[0], times[-1]) == (1, 0.1)
    uniform = step_times(model, 6, Stepping())
    assert torch.equal(uniform, torch.linspace(1, 0.1, 7, dtype=torch.float64))


@pytest.mark.parametrize(
    ("graph", "parameterization", "predictor"),
    [
        ("absorb", "conditional", "cached"),
        ("absorb", "raw", "euler"),
        ("uniform", "raw", "analytic"),
        ("uniform", "conditional", "analytic"),
    ],
)
def test_steps_at_cosine_times_follow_their_enumerated_chain(graph, parameterization, predictor):
    model, _ = small_support(graph, parameterization)
    law = n_step_law(model, 3, predictor, grid="cosine")
    assert total_variation(law, n_step_law(model, 3, predictor)) > 0.01
    samples = draw(model, 3, predictor, stepping=Stepping(grid="cosine"))
    check_law(index_of(samples.tokens, 3), law)
