"""Samplers that take tokens back: their laws, and what theory says that they leave alone."""

import itertools

import pytest
import torch
from chains import NUM, draw, impose, n_step_law, small_support, transformer
from corrected import (
    beginning,
    corrected_law,
    denoiser,
    law_of_conf,
    one_position,
    step_by_definition,
    sweep_law,
)
from enumeration import transition
from toy import (
    ExactNetwork,
    all_states,
    check_law,
    exact_model,
    index_of,
    rates_of,
    total_variation,
)

from pipeline.methods.draws import FREE, Sharpening
from pipeline.methods.samplers import REMASKING, Stepping
from pipeline.methods.sedd.graph import Absorb, Uniform
from pipeline.methods.sedd.remask import timetable
from pipeline.methods.sedd.schedule import kappas, mask_chances, step_times
from pipeline.methods.sedd.stepwise import sweep

SCHEDULES = [
    Stepping(corrector=name, eta=1.0 if name == "forward_backward" else 0.9, hold=0.5)
    for name in REMASKING
]
SWEEPS = [
    Stepping(corrector=name, num_redrawn=num)
    for name, num in [("gibbs", 1), ("gibbs", 2), ("low_confidence", 1)]
]
every_schedule = pytest.mark.parametrize("stepping", SCHEDULES, ids=lambda s: s.corrector)
both = pytest.mark.parametrize("graph", ["absorb", "uniform"])


@both
@every_schedule
def test_samples_follow_the_law_of_the_step_by_definition(graph, stepping):
    model, _ = small_support(graph, "conditional", length=3)
    law = corrected_law(model, 5, stepping)
    assert total_variation(law, n_step_law(model, 5, "analytic")) > 0.025
    check_law(index_of(draw(model, 5, "auto", stepping=stepping).tokens, 3), law)


@every_schedule
def test_a_timetable_has_the_law_of_the_plain_loop(stepping):
    """`analytic` reveals step by step, `cached` by turns: one law, as many evaluations."""
    model, _ = small_support("absorb", "conditional", length=3)
    law = corrected_law(model, 5, stepping)
    loop, cached = (draw(model, 5, name, stepping=stepping) for name in ("analytic", "cached"))
    for samples in loop, cached:
        check_law(index_of(samples.tokens, 3), law)
    assert torch.equal(loop.nfe, cached.nfe)
    assert cached.calls <= loop.calls


@pytest.mark.parametrize("stepping", SWEEPS, ids=lambda s: f"{s.corrector} {s.num_redrawn}")
@pytest.mark.parametrize("parameterization", ["raw", "conditional"])
def test_sweeps_follow_their_enumerated_chain(stepping, parameterization):
    model, _ = small_support("uniform", parameterization)
    samples = draw(model, 2, "analytic", stepping=stepping)
    law = sweep_chain(model, 2, stepping)
    assert total_variation(law, n_step_law(model, 2, "analytic")) > 0.05
    check_law(index_of(samples.tokens, 3), law)
    per_step = stepping.num_redrawn if stepping.corrector == "gibbs" else 1
    assert bool((samples.nfe == 3 + 2 * per_step).all())


@torch.no_grad()
@pytest.mark.parametrize("stepping", SWEEPS, ids=lambda s: f"{s.corrector} {s.num_redrawn}")
def test_a_sweep_from_one_text_follows_its_matrix(stepping):
    """Which positions are taken, too: of two Gibbs would have the same law whichever it took."""
    model, _ = small_support("uniform", "conditional", length=3)
    t, text = torch.tensor(0.4, dtype=torch.float64), torch.tensor([[0, 2, 1]])
    law = sweep_law(model, all_states(3, 3), model.noise.sigma(t), stepping)
    swept, _, _ = sweep(
        *(model, text.repeat(NUM, 1), t, torch.ones(3, dtype=torch.bool)),
        *(Sharpening(3), stepping, torch.Generator().manual_seed(0)),
    )
    check_law(index_of(swept, 3), law[index_of(text, 3)[0]])


def sweep_chain(model, num_steps, stepping):
    if model.conditional:
        return corrected_law(model, num_steps, stepping)
    # The exact raw score has the steps of the exact denoiser.
    return corrected_law(small_support("uniform", "conditional")[0], num_steps, stepping)


@pytest.mark.parametrize("num_steps", [3, 4])
def test_conf_follows_its_enumerated_chain(num_steps):
    model, _ = small_support("absorb", "conditional", vocab_size=2, length=3)
    stepping = Stepping(corrector="conf", eta=1.0)
    law = law_of_conf(model, num_steps, stepping)
    assert law.sum().item() == pytest.approx(1)
    assert total_variation(law, n_step_law(model, num_steps, "analytic")) > 0.04
    check_law(index_of(draw(model, num_steps, "auto", stepping=stepping).tokens, 2), law)


def test_conf_takes_back_rather_what_was_unlikely_when_drawn():
    """Of two tokens, drawn with the chances 0.98 and 1/3, by softmax of minus these."""
    model, _ = small_support("absorb", "conditional")
    first = torch.tensor([0.98, 0.01, 0.01], dtype=torch.float64)
    model.network = ExactNetwork(model, first[:, None].expand(3, 3) / 3)
    states = []
    draw(
        *(model, 6, "auto"),
        stepping=Stepping(corrector="conf", eta=1.0),
        on_state=lambda _step, _t, xt: states.append(xt),
    )
    before, after = torch.stack(states[:-1]), torch.stack(states[1:])
    both_there = (before[..., 0] == 0) & (before[..., 1] != 3)
    taken = (after == 3)[both_there]
    only = [int((taken[:, place] & ~taken[:, 1 - place]).sum()) for place in range(2)]
    likely, unlikely = torch.tensor([-0.98, -1 / 3]).softmax(0).tolist()
    # One alone is taken in these shares where little is taken, in those of their squares at most.
    least = likely**2 / (likely**2 + unlikely**2)
    assert sum(only) > 500
    assert least - 0.04 < only[0] / sum(only) < likely + 0.04


@both
@pytest.mark.parametrize("kappa", [1.0, 0.7, 0.0, -0.2])
def test_any_kappa_leaves_the_law_of_one_position_where_the_process_has_it(graph, kappa):
    """From the law at t the step leads to the law at s, for every s, with the exact denoiser."""
    model, p0 = exact_model(graph, "conditional", length=1)
    states = all_states(model.graph.num_states, 1)
    for sigma, after in ((0.9, 0.3), (0.5, 0.5), (3.0, 0.01)):
        ends = torch.tensor([sigma, after], dtype=torch.float64)
        laws = [p0 @ transition(model.graph, torch.arange(3)[:, None], end) for end in ends]
        p = denoiser(model, states, ends[0])
        weights = step_by_definition(model, p, states, *ends, kappa)[:, 0]
        torch.testing.assert_close(laws[0] @ weights, laws[1], rtol=0, atol=1e-10)


@both
@every_schedule
def test_marginals_of_one_position_are_the_process_own_at_every_step(graph, stepping):
    """Through the sampler itself: the share of masks, or the token's law, before each step."""
    model, p0 = small_support(graph, "conditional", length=1, t_min=0.05)
    seen = {}
    draw(model, 6, "auto", stepping=stepping, on_state=lambda step, t, xt: seen.update({step: xt}))
    for step, t in enumerate(step_times(model, 6, stepping)):
        if step == 0:
            continue
        law = p0 @ transition(model.graph, torch.arange(3)[:, None], model.noise.sigma(t))
        check_law(seen[step][:, 0], law)
    check_law(seen[7][:, 0], p0)


@pytest.mark.parametrize("made", [Absorb(4), Uniform(4)], ids=["absorb", "uniform"])
@pytest.mark.parametrize("alphas", [(0.3, 0.8), (0.6, 0.6), (0.01, 0.02), (0.9, 0.99)])
def test_the_least_kappa_is_where_a_chance_reaches_zero(made, alphas):
    alpha = torch.tensor(alphas, dtype=torch.float64)
    size, rate = 3 if made.mask_id else 4, rates_of(made)
    now, after, between = (
        torch.matrix_exp(-each.log() * rate) for each in (*alpha, alpha[0] / alpha[1])
    )
    least = made.least_kappa(*alpha)
    assert least <= 0

    def smallest(kappa):
        chances = []
        for x0, xt in itertools.product(range(size), range(4)):
            if now[x0, xt] > 0:
                posterior = after[x0] * between[:, xt] / now[x0, xt]
                chances.append(kappa * posterior + (1 - kappa) * after[x0])
        return torch.stack(chances).min().item()

    assert smallest(least) == pytest.approx(0, abs=1e-12)
    assert smallest(least - 1e-3) < -1e-7
    assert smallest(least + 1e-3) >= 0


@pytest.mark.parametrize("corrector", [*REMASKING, "conf"])
def test_schedules_take_back_what_they_say(corrector):
    """The chance sigma_t of ReMDM, at most min(1, (1 - alpha_s) / alpha_t)."""
    model, _ = exact_model("absorb", "conditional", eps=1e-3)
    stepping = Stepping(corrector=corrector, eta=0.3, hold=0.4)
    times = step_times(model, 20, stepping)
    assert (times[0], times[-1]) == (1, 0)
    assert bool((times.diff() <= 0).all())
    alpha = 1 - 0.999 * times
    stay, back = mask_chances(model, times, kappas(model, times, stepping))
    for step, (now, after) in enumerate(itertools.pairwise(alpha.tolist())):
        largest = min(1, (1 - after) / now)
        expected = {
            "cap": min(0.3, largest),
            "rescale": 0.3 * largest,
            "loop": min(0.3, largest) if now == after else 0,
            "forward_backward": min(0.3 * (1 - now / after), largest),
            "conf": 0.3 * largest,
        }[corrector]
        assert back[step].item() == pytest.approx(expected, abs=1e-12)
        left = ((1 - after) - expected * now) / (1 - now)
        assert stay[step].item() == pytest.approx(left, abs=1e-12)
    assert (stay[-1], back[-1]) == (0, 0)
    held = int((times.diff() == 0).sum())
    assert held == (10 if corrector == "loop" else 0)
    assert corrector != "loop" or bool((times == 0.4).sum() == 11)


@pytest.mark.parametrize("num_steps", range(1, 8))
def test_loops_of_few_steps_have_their_number(num_steps):
    model, _ = exact_model("absorb", "conditional")
    times = step_times(model, num_steps, Stepping(corrector="loop"))
    assert len(times) == num_steps + 1
    assert (times[0], times[-1]) == (1, 0)
    assert bool((times.diff() <= 0).all())


def test_a_timetable_has_the_chances_of_its_steps():
    stay = torch.tensor([0.7, 0.5, 0.0], dtype=torch.float64)
    back = torch.tensor([0.9, 0.3, 0.0], dtype=torch.float64)
    masked = timetable((NUM, 1), stay, back, torch.Generator().manual_seed(0))[..., 0]
    assert bool(masked[0].all())
    assert not bool(masked[-1].any())
    law = torch.tensor([0.3 * 0.7, 0.3 * 0.3, 0.7 * 0.5, 0.7 * 0.5], dtype=torch.float64)
    check_law(2 * masked[1].long() + masked[2].long(), law)


@both
@pytest.mark.parametrize("kappa", [0.9, 0.5, 0.0])
def test_at_constant_alpha_one_position_at_a_time_leaves_the_law_of_whole_texts(graph, kappa):
    model, p0 = exact_model(graph, "conditional", length=3)
    states = all_states(model.graph.num_states, 3)
    sigma = torch.tensor(0.6, dtype=torch.float64)
    law = p0.flatten() @ transition(model.graph, all_states(3, 3), sigma)
    weights = step_by_definition(model, denoiser(model, states, sigma), states, *[sigma] * 2, kappa)
    for place in range(3):
        torch.testing.assert_close(law @ alone(weights, states, place), law, rtol=0, atol=1e-10)


def alone(weights, states, place):
    """The matrix [S, S] of a step of one position, the others staying."""
    matrix = torch.zeros(len(states), len(states), dtype=torch.float64)
    for token in range(weights.shape[-1]):
        target = states.clone()
        target[:, place] = token
        there = index_of(target, weights.shape[-1])
        matrix[torch.arange(len(states)), there] += weights[:, place, token]
    return matrix


@both
def test_at_constant_alpha_the_bias_of_all_at_once_falls_with_the_square_of_what_is_forgotten(
    graph,
):
    model, p0 = exact_model(graph, "conditional", length=3)
    states = all_states(model.graph.num_states, 3)
    sigma = torch.tensor(0.6, dtype=torch.float64)
    law = p0.flatten() @ transition(model.graph, all_states(3, 3), sigma)
    p, distance = denoiser(model, states, sigma), []
    for forgotten in (0.04, 0.02, 0.01):
        weights = step_by_definition(model, p, states, sigma, sigma, 1 - forgotten)
        joint = torch.ones(len(states), len(states), dtype=torch.float64)
        for place in range(3):
            joint *= weights[:, place, states[:, place]]
        distance.append(total_variation(law @ joint, law))
    assert distance[0] > 1e-6
    for more, less in itertools.pairwise(distance):
        assert less / more == pytest.approx(0.25, abs=0.02)


@torch.no_grad()
@pytest.mark.parametrize("parameterization", ["raw", "conditional"])
def test_gibbs_leaves_the_exact_law_as_it_is(parameterization):
    """Each position by itself, and any number of them in a random order."""
    model, _ = exact_model("uniform", parameterization, length=3)
    states, sigma = all_states(3, 3), torch.tensor(0.6, dtype=torch.float64)
    law = model.network.marginal(sigma).flatten()
    for matrix in one_position(model, states, sigma):
        torch.testing.assert_close(law @ matrix, law, rtol=0, atol=1e-12)
    for num in (1, 3):
        matrix = sweep_law(model, states, sigma, Stepping(corrector="gibbs", num_redrawn=num))
        torch.testing.assert_close(law @ matrix, law, rtol=0, atol=1e-12)
    least = sweep_law(model, states, sigma, Stepping(corrector="low_confidence"))
    assert total_variation(law @ least, law) > 0.01
    start = beginning(model, states)
    assert total_variation(start @ matrix, law) < 0.9 * total_variation(start, law)


@pytest.mark.parametrize(
    ("graph", "stepping"),
    [
        *[("absorb", s) for s in (*SCHEDULES, Stepping(corrector="conf", eta=1.0))],
        *[("uniform", s) for s in (*SCHEDULES, *SWEEPS)],
    ],
    ids=lambda value: getattr(value, "corrector", value),
)
def test_fixed_positions_never_move_and_evaluations_are_counted(monkeypatch, graph, stepping):
    from pipeline.methods.sedd import draw as drawing

    model, seen = transformer(5, graph, "conditional", eps=1e-3), []
    answer = drawing.hidden_at

    def counting(model, xt, *arguments):
        seen.append(len(xt))
        return answer(model, xt, *arguments)

    monkeypatch.setattr(drawing, "hidden_at", counting)
    fixed, states = torch.tensor([FREE, 3, FREE, FREE, 0]), []
    how = {"stepping": stepping, "num": 40, "fixed": fixed}
    samples = draw(model, 12, "auto", on_state=lambda *s: states.append(s), **how)
    assert samples.calls == len(seen)
    assert int(samples.nfe.sum()) == sum(seen)
    assert [step for step, _, _ in states] == list(range(14))
    for _, _, xt in states:
        assert bool((xt == fixed)[:, fixed != FREE].all())
    assert torch.equal(states[-1][2], samples.tokens)
    assert int(samples.tokens.max()) < 7
    again = draw(model, 12, "auto", **how)
    assert torch.equal(again.tokens, samples.tokens)
    nothing = draw(model, 3, "auto", stepping=stepping, num=2, fixed=torch.arange(5))
    assert nothing.tokens.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert graph == "uniform" or nothing.calls == 0


@pytest.mark.parametrize(
    ("graph", "corrector"),
    [*itertools.product(["absorb", "uniform"], REMASKING), ("uniform", "gibbs")],
)
def test_whose_law_tends_to_the_models_own_as_steps_are_added(graph, corrector):
    """As 1/n or faster, more slowly where each step takes back as large a share, or not at all."""
    # Of two positions Gibbs leaves no bias at all.
    length = 3 if corrector == "gibbs" else 2
    model, p0 = small_support(graph, "conditional", length=length)
    stepping = Stepping(corrector=corrector, eta=0.4)
    coarse, fine = (
        total_variation(corrected_law(model, n, stepping), p0.flatten()) for n in (32, 64)
    )
    assert fine > 1e-5
    least, most = {
        "forward_backward": (0.45, 0.55),
        "gibbs": (0.3, 0.55),
        "cap": (0.6, 0.85),
        "rescale": (0.6, 0.8),
        "loop": (0.93, 1.0),
    }[corrector]
    assert least < fine / coarse < most
    assert stepping.keeps_law == (corrector != "loop")


@every_schedule
def test_infilling_follows_its_enumerated_chain(stepping):
    model, _ = small_support("absorb", "conditional", length=3)
    fixed = torch.tensor([FREE, 1, FREE])
    samples = draw(model, 4, "auto", stepping=stepping, fixed=fixed)
    law = corrected_law(model, 4, stepping, fixed)
    assert torch.equal(law, impose(law, all_states(3, 3), fixed, 3))
    check_law(index_of(samples.tokens, 3), law)


@every_schedule
def test_states_of_a_timetable_are_those_of_its_steps(stepping):
    """A token that is shown stays until it is masked again, and masks come back."""
    model, states = transformer(), []
    draw(model, 60, "cached", num=30, stepping=stepping, on_state=lambda *s: states.append(s[2]))
    came_back = 0
    for before, after in itertools.pairwise(states):
        both_shown = (before != 7) & (after != 7)
        assert bool((before == after)[both_shown].all())
        came_back += int(((before != 7) & (after == 7)).sum())
    assert came_back > 50
