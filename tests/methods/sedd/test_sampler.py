import itertools

import pytest
import torch
from chains import NUM, SAMPLERS, draw, n_step_law, small_support, transformer
from toy import all_states, check_law, exact_model, index_of, total_variation

from pipeline.methods.draws import Sharpening
from pipeline.methods.sedd import draw as drawing
from pipeline.methods.sedd.reveal import masked_chances
from pipeline.methods.sedd.sampler import resolve, sample
from pipeline.methods.sedd.weights import denoise_weights, moves, reveals, step_weights

CASES = [
    ("absorb", "conditional", "cached", "loglinear"),
    ("absorb", "conditional", "cached", "geometric"),
    ("absorb", "conditional", "analytic", "loglinear"),
    ("absorb", "conditional", "euler", "geometric"),
    ("absorb", "raw", "analytic", "loglinear"),
    ("absorb", "raw", "euler", "geometric"),
    ("uniform", "raw", "analytic", "loglinear"),
    ("uniform", "raw", "euler", "loglinear"),
    ("uniform", "raw", "euler", "geometric"),
    ("uniform", "conditional", "analytic", "loglinear"),
    ("uniform", "conditional", "euler", "geometric"),
]
VARIANTS = [
    ("absorb", "conditional"),
    ("absorb", "raw"),
    ("uniform", "raw"),
    ("uniform", "conditional"),
]


@pytest.mark.parametrize(("graph", "parameterization", "predictor", "noise"), CASES)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_samples_follow_the_exact_law_of_their_chain(
    graph, parameterization, predictor, noise, num_steps
):
    model, _ = small_support(graph, parameterization, noise=noise, length=3)
    samples = draw(model, num_steps, predictor)
    assert 0 <= samples.tokens.min() <= samples.tokens.max() < 3
    check_law(index_of(samples.tokens, 3), n_step_law(model, num_steps, predictor))


@pytest.mark.parametrize("num_steps", [1, 50])
def test_first_hitting_follows_the_data_at_any_number_of_steps(num_steps):
    model, p0 = small_support("absorb", "conditional", length=3)
    samples = draw(model, num_steps, "first_hitting")
    check_law(index_of(samples.tokens, 3), p0.flatten())
    assert total_variation(n_step_law(model, 1, "analytic"), p0.flatten()) > 0.1


@pytest.mark.parametrize("predictor", ["first_hitting", "cached", "analytic"])
@pytest.mark.parametrize("noise", ["loglinear", "geometric"])
def test_positions_are_masked_as_often_as_the_process_says(predictor, noise):
    model, _ = small_support("absorb", "conditional", noise=noise, length=3)
    seen = {}
    draw(model, 4, predictor, on_state=lambda step, t, xt: seen.update({t: xt}))
    for t in (0.75, 0.25):
        ends = model.noise.sigma(torch.tensor([t, 1.0], dtype=torch.float64))
        masked = torch.expm1(-ends[0]) / torch.expm1(-ends[1])
        num_masks = all_states(2, 3).sum(-1)
        law = masked**num_masks * (1 - masked) ** (3 - num_masks)
        check_law(index_of((seen[t] == 3).long(), 2), law)


@pytest.mark.parametrize("predictor", ["analytic", "euler"])
@pytest.mark.parametrize(("graph", "parameterization"), VARIANTS)
def test_bias_of_n_steps_falls_as_one_over_n(graph, parameterization, predictor):
    model, p0 = small_support(graph, parameterization, length=3)
    distance = [
        total_variation(n_step_law(model, n, predictor), p0.flatten()) for n in (16, 32, 64)
    ]
    assert distance[0] > 1e-4
    assert distance[1] / distance[0] == pytest.approx(0.5, abs=0.06)
    assert distance[2] / distance[1] == pytest.approx(0.5, abs=0.03)


def test_conditional_and_raw_share_the_law_of_the_analytic_step():
    raw, conditional = (small_support("absorb", p)[0] for p in ("raw", "conditional"))
    laws = [n_step_law(model, 4, "analytic") for model in (raw, conditional)]
    torch.testing.assert_close(*laws, rtol=0, atol=1e-4)


@pytest.mark.parametrize("predictor", ["analytic", "euler", "cached"])
@pytest.mark.parametrize("changes", [{"eps": 0.2}, {"noise": "geometric"}])
def test_reveals_are_placed_with_the_chances_of_the_step(predictor, changes):
    model, _ = small_support("absorb", "conditional", **changes)
    times = torch.linspace(1, 0, 6, dtype=torch.float64)
    masked = masked_chances(model, times, predictor)
    assert (masked[0], masked[-1]) == (1, 0)
    all_masks = torch.full((1, 2), 3)
    rule = "euler" if predictor == "euler" else "analytic"
    for step, (t, next_t) in enumerate(itertools.pairwise(times)):
        weights = step_weights(model, all_masks, t, next_t, rule)[0, 0].clamp(min=0)
        stay = (weights[3] / weights.sum()).item()
        assert masked[step + 1].item() == pytest.approx(masked[step].item() * stay, abs=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("noise", ["loglinear", "geometric"])
@pytest.mark.parametrize("predictor", ["analytic", "euler"])
@pytest.mark.parametrize(("graph", "parameterization"), VARIANTS[1:])
@pytest.mark.parametrize("num_times", [1, 2])
def test_weights_by_position_are_those_of_the_step(
    graph, parameterization, predictor, noise, num_times
):
    """What is written out for masks alone, and what chunks take, against the graph's formulas."""
    model = transformer(graph=graph, parameterization=parameterization, noise=noise)
    times = torch.tensor([0.6, 0.57], dtype=torch.float64)[:num_times]
    xt = torch.randint(7, (5, 8), generator=torch.Generator().manual_seed(0))
    if graph == "absorb":
        xt[:, ::2] = 7
    if num_times == 1:
        expected = denoise_weights(model, xt, *times)
    else:
        expected = step_weights(model, xt, *times, predictor)
    at = xt == 7 if graph == "absorb" else torch.ones_like(xt, dtype=torch.bool)
    outputs = model.network(xt, model.noise.sigma(times[:1]), at)
    if graph == "absorb":
        weigh = reveals(model, times, predictor)
    else:
        weigh = moves(model, times, predictor, Sharpening(7))
    weights = weigh(outputs, xt[at])
    shares = (each / each.sum(-1, keepdim=True) for each in (weights, expected[at]))
    torch.testing.assert_close(*shares, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_head_at_chosen_positions_is_the_full_head_there():
    model = transformer()
    generator = torch.Generator().manual_seed(0)
    xt = torch.randint(8, (5, 8), generator=generator)
    at = torch.rand(5, 8, generator=generator) < 0.3
    torch.testing.assert_close(model.log_p(xt, at), model.log_p(xt)[at], rtol=1e-12, atol=1e-12)


def test_cached_draws_the_tokens_of_analytic_under_a_shared_stream():
    model, texts = transformer(), set()
    for seed in range(20):
        one, other = (draw(model, 4, name, seed, num=1) for name in ("analytic", "cached"))
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.nfe, other.nfe)
        assert one.calls == other.calls == int(one.nfe)
        texts.add(tuple(one.tokens[0].tolist()))
    assert len(texts) == 20


def test_rows_of_cached_share_calls_and_leave_nfe_as_it_is():
    model = transformer()
    stepwise, cached = (draw(model, 200, name, num=50) for name in ("analytic", "cached"))
    assert torch.equal(stepwise.nfe, cached.nfe)
    assert cached.calls == int(cached.nfe.max()) <= 8
    assert stepwise.calls > 100


@pytest.mark.parametrize(("graph", "parameterization", "predictor"), SAMPLERS)
@pytest.mark.parametrize("num", [1, 200])
def test_nfe_counts_the_evaluations_that_included_a_row(
    monkeypatch, graph, parameterization, predictor, num
):
    """Also where the row shared an evaluation with others that were alike."""
    model, _ = small_support(graph, parameterization, length=3)
    seen, answer = [], drawing.hidden_at

    def counting(model, xt, *arguments):
        seen.append(len(xt))
        return answer(model, xt, *arguments)

    monkeypatch.setattr(drawing, "hidden_at", counting)
    samples = draw(model, 5, predictor, seed=1, num=num)
    assert samples.calls == len(seen)
    assert int(samples.nfe.sum()) == sum(seen)
    assert int(samples.nfe.max()) <= (3 if model.timeless else 6)


@pytest.mark.parametrize("predictor", ["cached", "analytic"])
@pytest.mark.parametrize("noise", ["loglinear", "geometric"])
def test_mean_nfe_is_the_expected_number_of_steps_that_reveal_something(predictor, noise):
    model, _ = small_support("absorb", "conditional", length=3, noise=noise, eps=0.2)
    num_steps = 7
    times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    chances = -masked_chances(model, times, predictor).diff()
    assert chances.sum().item() == pytest.approx(1)
    expected = (1 - (1 - chances) ** 3).sum().item()
    nfe = draw(model, num_steps, predictor).nfe.double()
    assert nfe.mean().item() == pytest.approx(expected, abs=4 * nfe.std().item() / NUM**0.5)
    if noise == "loglinear":
        in_closed_form = num_steps * (1 - (1 - 1 / num_steps) ** 3)
        assert expected == pytest.approx(in_closed_form, rel=1e-12)


def test_first_hitting_evaluates_each_row_once_a_position():
    model = transformer()
    samples = draw(model, 3, "first_hitting", num=50)
    assert samples.calls == 8
    assert bool((samples.nfe == 8).all())


def test_raw_rows_stop_being_evaluated_once_nothing_can_change():
    model, _ = small_support("absorb", "raw")
    samples = draw(model, 4, "analytic")
    assert int(samples.nfe.max()) <= 5
    assert int(samples.nfe.min()) >= 1
    uniform = draw(small_support("uniform", "raw")[0], 4, "analytic")
    assert bool((uniform.nfe == 5).all())


@pytest.mark.parametrize(
    ("parameterization", "predictor"),
    [name[1:] for name in SAMPLERS if name[0] == "absorb"],
)
def test_states_run_from_all_masks_to_the_samples(parameterization, predictor):
    model, _ = small_support("absorb", parameterization)
    states = []
    samples = draw(model, 4, predictor, on_state=lambda step, t, xt: states.append((step, t, xt)))
    assert [step for step, _, _ in states] == list(range(6))
    times = [1.0, 0.75, 0.5, 0.25, model.t_min, 0.0]
    assert [t for _, t, _ in states] == pytest.approx(times, abs=1e-5)
    assert bool((states[0][2] == 3).all())
    torch.testing.assert_close(states[-1][2], samples.tokens)
    for (_, _, before), (_, _, after) in itertools.pairwise(states):
        kept = before != 3
        torch.testing.assert_close(before[kept], after[kept])


@pytest.mark.parametrize("predictor", ["analytic", "cached", "first_hitting"])
def test_states_are_shown_as_soon_as_they_are_settled(predictor):
    model, events = transformer(), []
    answer = model.network.hidden

    def telling(*arguments, **options):
        events.append("call")
        return answer(*arguments, **options)

    model.network.hidden = telling
    draw(model, 50, predictor, num=1, on_state=lambda *state: events.append("state"))
    calls = [place for place, event in enumerate(events) if event == "call"]
    assert events.count("state") == 52
    assert events[0] == "state"
    assert all(later > sooner + 1 for sooner, later in itertools.pairwise(calls))


@pytest.mark.parametrize(("graph", "parameterization", "predictor"), SAMPLERS)
def test_same_seed_same_samples(graph, parameterization, predictor):
    model, _ = small_support(graph, parameterization)
    first, again, other = (draw(model, 3, predictor, seed=seed).tokens for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("graph", "parameterization"), VARIANTS)
def test_auto_is_the_fastest_with_the_law_of_analytic(graph, parameterization):
    model, _ = small_support(graph, parameterization)
    name = resolve(model, "auto")
    assert name == ("cached" if model.timeless else "analytic")
    assert torch.equal(draw(model, 3, "auto").tokens, draw(model, 3, name).tokens)


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        (VARIANTS[0], {"num_steps": 0}, "num_steps 0"),
        (VARIANTS[0], {"length": 3}, r"length 3 not in 1\.\.2"),
        (VARIANTS[0], {"length": 0}, "length 0"),
        (VARIANTS[0], {"fixed": torch.zeros(5)}, r"shape \(5,\), expected \(2,\)"),
        (VARIANTS[1], {"predictor": "cached"}, r"analytic or euler with the raw .*\(got cached\)"),
        (VARIANTS[2], {"predictor": "first_hitting"}, r"\(got first_hitting\)"),
        (VARIANTS[0], {"predictor": "ddim"}, r"cached or first_hitting .*\(got ddim\)"),
        (VARIANTS[0], {"temperature": 0.0}, r"above 0 \(got 0\.0\)"),
        (VARIANTS[0], {"temperature": float("nan")}, r"\(got nan"),
        (VARIANTS[1], {"top_p": 1.5}, r"at most 1 \(got 1\.5\)"),
        (VARIANTS[2], {"temperature": 0.5}, "temperature must be 1 with the raw parameterization"),
        (VARIANTS[2], {"top_p": 0.5}, r"top_p must be 1 with .* of graph uniform.*\(got 0\.5\)"),
    ],
)
def test_impossible_requests_are_refused(variant, options, message):
    model, _ = exact_model(*variant)
    generator = torch.Generator().manual_seed(0)
    options = {"num_steps": 2, "predictor": "analytic"} | options
    with pytest.raises(ValueError, match=message):
        sample(model, 1, generator=generator, **options)
