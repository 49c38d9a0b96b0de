"""Samplers: samples by their law, what goes from step to step, and what changes nothing."""

import itertools
import math
from typing import get_args

import pytest
import torch
from embedding_toy import bayes_model, random_model, seeded
from toy import check_law, follows_law, index_of, total_variation, toy_distribution

from pipeline.methods.embedding import sampler
from pipeline.methods.embedding.sampler import Predictor, moved, resolve, sample
from pipeline.methods.samplers import Conditioning, Stepping

P0 = toy_distribution(3, 2)
NUM = 20_000
every_rule = pytest.mark.parametrize("rule", get_args(Predictor))


def draw(model, num_steps, predictor="ddim", seed=0, num=NUM, **options):
    return sample(
        model, num, num_steps=num_steps, predictor=predictor, generator=seeded(seed), **options
    )


@every_rule
def test_samples_of_the_bayes_denoiser_come_to_follow_the_data(rule):
    """Chance alone is a total variation of 0.008 from 20,000 samples."""
    model, found = bayes_model(P0), []
    for num_steps in 4, 16, 64:
        law = torch.bincount(index_of(draw(model, num_steps, rule).tokens, 3), minlength=9) / NUM
        found.append(total_variation(law, P0.flatten()))
    assert found[0] > 2 * found[1] > 2 * (found[2] - 0.008)
    assert found[2] < 0.02


def small(**changes):
    """Of five positions and seven tokens, on levels where nothing is certain."""
    return random_model(**({"g_min": 0.0} | changes))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.6)])
def test_the_last_draw_is_from_the_models_law_and_not_its_mode(temperature, top_p):
    """Of a constant head, and of levels that tell nothing: to the power 1 / temperature."""
    model = small(length=1, g_min=38.0, g_max=40.0)
    with torch.no_grad():
        model.network.head.weight.zero_()
        law = model.network.head.bias.copy_(torch.linspace(-1, 1, 7)).softmax(0)
    samples = draw(model, 1, temperature=temperature, top_p=top_p)
    law = law ** (1 / temperature)
    if top_p < 1:
        law = torch.where(torch.arange(7) >= 4, law, 0.0)
    drawn = samples.tokens.squeeze(1)
    check_law(drawn, law.double() / law.sum())
    plain = model.network.head.bias.softmax(0).detach().double()
    assert follows_law(drawn, plain) == (temperature == top_p == 1)


@torch.no_grad()
@every_rule
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_each_step_is_the_rule_around_what_was_found(rule, share, monkeypatch):
    """And a self-conditioned model is given what it expected a step before, at first nothing."""
    model, told, steps = small(self_condition=share, clock="cosine"), [], []
    hidden, move = model.network.hidden, moved
    levels = model.clock.g(torch.linspace(1, 0, 4, dtype=torch.float64))

    def spied(z, g, known, estimate=None):
        found = hidden(z, g, known, estimate)
        told.append((z, g, estimate, model.network.expect(found, z, g, known.clamp(min=0)).mean))
        return found

    def noted(z, target, now, after, rule, generator):
        steps.append((z, target, now, after, move(z, target, now, after, rule, generator)))
        return steps[-1][-1]

    model.network.hidden = spied
    monkeypatch.setattr(sampler, "moved", noted)
    vectors = model.network.vectors()
    samples = draw(model, 3, rule, num=6)
    assert samples.calls == len(told) == 4
    assert torch.equal(samples.nfe, torch.full((6,), 4))
    assert [each[1].item() for each in told] == pytest.approx(levels.tolist())
    assert told[0][2] is None
    calls = itertools.pairwise(told)
    for (z, target, now, after, next_z), (call, later) in zip(steps, calls, strict=True):
        assert torch.equal(z, call[0])
        assert torch.equal(next_z, later[0])
        assert torch.equal(now.gamma, model.level(call[1]).gamma)
        assert torch.equal(after.gamma, model.level(later[1]).gamma)
        torch.testing.assert_close(later[2], call[3], rtol=1e-4, atol=1e-4)
        if rule == "draw":
            assert torch.isclose(target[:, :, None], vectors).all(-1).any(-1).all()
        else:
            torch.testing.assert_close(target, call[3], rtol=1e-4, atol=1e-4)


def test_a_temperature_acts_on_what_is_expected_as_on_what_is_drawn():
    model, seen = small(self_condition=0.25), []
    hidden = model.network.hidden

    def spied(z, g, known, estimate=None):
        found = hidden(z, g, known, estimate)
        evidence = model.level(g).evidence.float() * z
        seen.append((estimate, model.network.logits(found.flatten(0, 1), evidence.flatten(0, 1))))
        return found

    model.network.hidden = spied
    draw(model, 1, "ddim", num=3, temperature=0.5)
    wanted = (2 * seen[0][1]).softmax(-1) @ model.network.vectors()
    torch.testing.assert_close(seen[1][0].flatten(0, 1), wanted, rtol=1e-4, atol=1e-4)


@every_rule
@pytest.mark.parametrize("size", [1, 20, 700])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_p": 0.9}])
def test_parts_make_no_difference(monkeypatch, rule, size, options):
    """Of rows as of positions, to samples and states; the calls are as many as the parts."""
    model = small()

    def run(activations, positions):
        monkeypatch.setattr(sampler, "ACTIVATIONS", {"cpu": activations})
        monkeypatch.setattr(sampler, "CHUNK", {"cpu": positions})
        states = []
        samples = draw(model, 3, rule, num=10, on_state=lambda *s: states.append(s), **options)
        return samples, states

    (whole, states), (parts, states_of_parts) = run(2**21, 2**22), run(size * 64, size * 7)
    assert torch.equal(parts.tokens, whole.tokens)
    assert torch.equal(parts.nfe, whole.nfe)
    rows = max(1, size // 5)
    assert (whole.calls, parts.calls) == (4, 4 * math.ceil(10 / rows))
    for (*when, xt), (*when_of_part, xt_of_part) in zip(states, states_of_parts, strict=True):
        assert when == when_of_part
        assert torch.equal(xt, xt_of_part)


@every_rule
def test_states_are_likely_tokens_or_none(rule):
    """One is shown that has half of the weight; at the end it is the samples."""
    model, states = small(g_min=-5.0), []
    fixed = torch.tensor([-1, 3, -1, 6, -1])
    samples = draw(model, 4, rule, num=50, fixed=fixed, on_state=lambda *s: states.append(s))
    assert [step for step, _, _ in states] == list(range(6))
    assert [t for _, t, _ in states] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    for _, _, xt in states:
        assert 0 <= xt.min() <= xt.max() <= 7
        assert bool((xt[:, fixed >= 0] == fixed[fixed >= 0]).all())
    assert torch.equal(states[-1][2], samples.tokens)
    hidden = [(xt == 7).double().mean().item() for _, _, xt in states]
    assert hidden[0] > hidden[3] > hidden[5] == 0
    # Without its states the same are drawn.
    assert torch.equal(draw(model, 4, rule, num=50, fixed=fixed).tokens, samples.tokens)


@torch.no_grad()
@pytest.mark.parametrize(
    ("chances", "shown"), [((0.51, 0.49), 0), ((0.1, 0.51, 0.39), 1), ((0.49, 0.41, 0.1), 3)]
)
def test_a_token_is_shown_from_half_of_the_weight_on(chances, shown):
    model, states = small(vocab_size=len(chances), length=1, g_min=38.0, g_max=40.0), []
    model.network.head.weight.zero_()
    model.network.head.bias.copy_(torch.tensor(chances).log())
    draw(model, 1, num=3, on_state=lambda *s: states.append(s))
    assert torch.equal(states[0][2], torch.full((3, 1), shown))


def test_a_shorter_length_is_drawn_as_itself():
    samples = draw(small(), 3, num=4, length=3)
    assert samples.tokens.shape == (4, 3)
    assert torch.equal(samples.tokens, draw(small(), 3, num=4, length=3).tokens)
    assert not torch.equal(samples.tokens, draw(small(), 3, num=4, length=3, seed=1).tokens)


def test_auto_is_ddpm():
    model = small()
    assert resolve(model, "auto") == "ddpm"
    auto, ddpm, ddim = (draw(model, 3, name, num=8).tokens for name in ("auto", "ddpm", "ddim"))
    assert torch.equal(auto, ddpm)
    assert not torch.equal(auto, ddim)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps 0 below 1"),
        ({"length": 6}, r"length 6 not in 1\.\.5"),
        ({"length": 0}, "length 0"),
        ({"fixed": torch.zeros(4)}, r"shape \(4,\), expected \(5,\)"),
        ({"predictor": "analytic"}, r"auto, ddpm, ddim or draw .*\(got analytic\)"),
        ({"temperature": 0.0}, r"above 0 \(got 0\.0\)"),
        ({"temperature": math.inf}, r"\(got inf"),
        ({"top_p": 1.5}, r"at most 1 \(got 1\.5\)"),
        ({"stepping": Stepping(grid="cosine")}, r"grid must be uniform .*\(got cosine\)"),
        ({"conditioning": Conditioning({"Sex": "F"})}, r"not \(got Sex=F, guidance 1\)"),
    ],
)
def test_impossible_requests_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        draw(small(), **({"num_steps": 2, "num": 1} | options))


@pytest.mark.parametrize(
    ("predictor", "temperature", "calls"),
    [("ddim", 1, 1), ("ddpm", 1, 1), ("draw", 1, 5), ("ddim", 0.5, 5)],
)
def test_probabilities_are_whole_where_a_mean_is_not_enough_alone(predictor, temperature, calls):
    """At the draw of tokens; who looks on sees them at every step, and changes nothing."""
    model, seen = random_model(), []
    logits = model.network.logits

    def spied(*arguments):
        seen.append(None)
        return logits(*arguments)

    model.network.logits = spied
    how = {"num_steps": 4, "predictor": predictor, "temperature": temperature}
    alone = sample(model, 20, **how, generator=seeded()).tokens
    assert len(seen) == calls
    watched = sample(model, 20, **how, generator=seeded(), on_state=lambda *_: None).tokens
    assert len(seen) == calls + 5
    assert torch.equal(watched, alone)
