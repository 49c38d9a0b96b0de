"""The draw itself: its tails, and temperature and nucleus."""

import itertools
import math

import pytest
import torch
from chains import SAMPLERS, draw, law_of_orders, n_step_law, small_support, transformer
from toy import check_law, follows_law, index_of

from pipeline.methods import draws
from pipeline.methods.draws import Sharpening, nucleus
from pipeline.methods.sedd import draw as drawing


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def categorical(weights, generator):
    return draws.categorical(weights, draws.uniform((len(weights),), generator))


def test_draws_are_right_in_the_tails(generator):
    """A state of mass 1e-6 must come up at that rate."""
    probs = torch.full((1_000_000, 2), 1e-6, dtype=torch.float32)
    probs[:, 0] = 1 - 1e-6
    drawn = sum(int(categorical(probs, generator).sum()) for _ in range(20))
    assert 20 - 4 * 20**0.5 < drawn < 20 + 4 * 20**0.5


def test_a_draw_never_picks_a_state_without_mass(generator):
    probs = torch.tensor([0.0, 0.3, -0.1, 0.7, 0.0]).expand(100_000, -1)
    drawn = categorical(probs, generator)
    assert set(drawn.tolist()) == {1, 3}


@pytest.mark.parametrize("first", [True, False])
def test_the_smallest_probability_that_is_resolved(monkeypatch, generator, first):
    """A state of mass 2^-53 has one of the uniforms to itself: the first, or the last."""
    weights = torch.tensor([1 - 2.0**-53, 2.0**-53], dtype=torch.float64)
    weights = weights.flip(0) if first else weights
    edge = [0.0, 2.0**-53] if first else [1 - 2.0**-53, 1 - 2.0**-52]
    uniforms = torch.tensor(edge, dtype=torch.float64)
    monkeypatch.setattr(draws, "uniform", lambda shape, generator: uniforms)
    drawn = categorical(weights.expand(2, -1), generator)
    assert drawn.tolist() == ([0, 1] if first else [1, 0])


def test_uniforms_are_as_fine_as_said(generator):
    u = draws.uniform((10_000,), generator)
    steps = u * 2.0**53
    assert torch.equal(steps, steps.round())
    assert bool((steps % 2 == 1).any())


@pytest.mark.parametrize("size", [1, 40, 10**9])
@pytest.mark.parametrize(("graph", "parameterization", "predictor"), SAMPLERS)
def test_chunks_make_no_difference(monkeypatch, graph, parameterization, predictor, size):
    """Neither to samples nor to the count of evaluations, of the network as of the head."""
    model = transformer(5, graph, parameterization, eps=1e-3)
    whole = draw(model, 4, predictor, num=30)
    monkeypatch.setattr(drawing, "CHUNK", {"cpu": size})
    monkeypatch.setattr(drawing, "ACTIVATIONS", {"cpu": size})
    parts = draw(model, 4, predictor, num=30)
    assert torch.equal(parts.tokens, whole.tokens)
    assert torch.equal(parts.nfe, whole.nfe)
    assert parts.calls == (whole.calls if size == 10**9 else int(whole.nfe.sum()))


@pytest.mark.parametrize(("graph", "parameterization", "predictor"), SAMPLERS)
def test_rows_that_are_alike_are_evaluated_once(graph, parameterization, predictor):
    """With the same outputs as when each is evaluated by itself."""
    model = transformer(5, graph, parameterization, eps=1e-3)
    xt = torch.tensor([[2, 2, 1], [0, 2, 2], [2, 2, 1], [2, 2, 1], [1, 1, 1], [0, 2, 2]])
    at = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 1]]) == 1
    sigma = None if model.timeless else torch.tensor([0.7], dtype=model.dtype)
    seen = []
    hook = model.network.blocks[-1].norm1.register_forward_pre_hook(
        lambda _, inputs: seen.append(len(inputs[0]))
    )
    with torch.no_grad():
        found = drawing.hidden_at(model, xt, sigma, at)
        hook.remove()
        expected = model.network.hidden(xt, sigma, at)
    torch.testing.assert_close(found, expected)
    assert seen == [4]


@pytest.mark.parametrize("length", [1, 3, 1000])
def test_rows_are_told_apart_by_their_sums(length):
    """A row and all of its changes by one differ; a copy never does."""
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(50_258, (length,), generator=generator)
    changed = row + torch.eye(length, dtype=torch.int64)
    rows = torch.cat([row[None], changed])
    assert drawing._all_differ(rows)
    assert not drawing._all_differ(torch.cat([rows, rows[-1:]]))


def coarse(shape, generator):
    """Uniforms of 12 bits, as if the draw had lost the others."""
    u = torch.rand(shape, dtype=torch.float64, generator=generator)
    return (u * 2**12).floor() / 2**12


def gumbel_draw(weights, u):
    """argmax of log weight + Gumbel noise, a rule that draws exactly from real uniforms."""
    return (weights.log() - (-u.clamp(min=2.0**-53).log()).log()).argmax(-1)


NUM_DRAWS = 1_280_000
TOKENS = torch.randn(63, generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(0)
# A step of a sampler at V = 64: one mask in 64 is revealed.
REVEALING = torch.cat([TOKENS / 64, torch.tensor([63 / 64])])


def revealed(indices):
    return indices[indices < 63]


def test_the_draw_follows_its_law_where_little_is_revealed(generator):
    drawn = categorical(REVEALING.expand(NUM_DRAWS, -1), generator)
    assert follows_law((drawn < 63).long(), torch.tensor([63 / 64, 1 / 64]))
    assert follows_law(revealed(drawn), TOKENS)


def test_the_same_test_catches_coarse_uniforms(monkeypatch, generator):
    monkeypatch.setattr(draws, "uniform", coarse)
    drawn = categorical(REVEALING.expand(NUM_DRAWS, -1), generator)
    assert len(revealed(drawn)) > 19_000
    assert not follows_law(revealed(drawn), TOKENS)


@pytest.mark.parametrize(("uniform", "right"), [(draws.uniform, True), (coarse, False)])
def test_the_same_test_catches_coarse_gumbel_noise_and_its_lower_temperature(
    generator, uniform, right
):
    drawn = torch.cat(
        [gumbel_draw(REVEALING, uniform((NUM_DRAWS // 20, 64), generator)) for _ in range(20)]
    )
    tokens = revealed(drawn)
    assert follows_law(tokens, TOKENS) == right
    share = torch.bincount(tokens, minlength=63) / len(tokens)
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    lost = -(TOKENS * TOKENS.log()).sum() - entropy
    assert lost < 0.01 if right else lost > 0.02


def by_hand(weights, temperature, top_p, num_tokens):
    """Temperature, then nucleus, of weights [V], in plain loops."""
    tokens = [w ** (1 / temperature) for w in weights[:num_tokens]]
    total = sum(tokens)
    for size in range(1, num_tokens + 1):
        best = max(itertools.combinations(range(num_tokens), size), key=lambda s: mass(tokens, s))
        if top_p < 1 and mass(tokens, best) >= top_p * total:
            break
    kept = [token if place in best else 0.0 for place, token in enumerate(tokens)]
    scale = sum(weights[:num_tokens]) / sum(kept)
    return [*[token * scale for token in kept], *weights[num_tokens:]]


def mass(tokens, places):
    return sum(tokens[place] for place in places)


def sharpened_by_hand(temperature, top_p, num_tokens=3):
    def change(weights):
        rows = weights.clamp(min=0).reshape(-1, weights.shape[-1]).tolist()
        changed = [by_hand(row, temperature, top_p, num_tokens) for row in rows]
        return torch.tensor(changed, dtype=torch.float64).view_as(weights)

    return change


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_sharpening_against_plain_loops(generator, temperature, top_p):
    weights = torch.rand(20, 6, dtype=torch.float64, generator=generator) ** 3
    ours = Sharpening(5, temperature, top_p)(weights)
    expected = sharpened_by_hand(temperature, top_p, 5)(weights)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(ours[:, 5], weights[:, 5], rtol=0, atol=0)
    torch.testing.assert_close(ours[:, :5].sum(-1), weights[:, :5].sum(-1))


@pytest.mark.parametrize(
    ("weights", "top_p", "kept"),
    [
        ([0.5, 0.3, 0.2], 0.5, {0}),
        ([0.5, 0.3, 0.2], 0.5001, {0, 1}),
        ([0.2, 0.3, 0.5], 0.8, {1, 2}),
        ([0.25, 0.25, 0.25, 0.25], 0.5, {0, 1}),
        ([0.25, 0.0, 0.75], 1.0, {0, 2}),
        ([0.1, 0.9], 1e-9, {1}),
    ],
)
def test_nucleus_is_the_smallest_set_with_the_share(weights, top_p, kept):
    left = nucleus(torch.tensor(weights, dtype=torch.float64), top_p)
    assert set(left.nonzero().flatten().tolist()) == kept
    assert all(left[place] == weights[place] for place in kept)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_extreme_values_stay_finite(scale):
    weights = torch.tensor([[0.2, 0.5, 0.3, 1.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    weights *= scale
    for temperature in (1e-6, 1e6):
        sharp = Sharpening(3, temperature, 0.99)(weights)
        assert math.isfinite(sharp.sum())
        assert sharp[0].sum().item() == pytest.approx(2 * scale, rel=1e-12)
        assert sharp[1].tolist() == [0, 0, 0, scale]
    assert Sharpening(3, 1e-6)(weights)[0].tolist() == pytest.approx([0, scale, 0, scale])


SHARPENED = [(0.5, 1.0), (2.0, 1.0), (1.0, 0.7), (0.7, 0.8)]


@pytest.mark.parametrize(("temperature", "top_p"), SHARPENED)
@pytest.mark.parametrize(
    ("parameterization", "predictor"),
    [("conditional", "cached"), ("raw", "analytic"), ("raw", "euler")],
)
def test_sharpened_samples_follow_their_enumerated_chain(
    parameterization, predictor, temperature, top_p
):
    model, _ = small_support("absorb", parameterization)
    change = sharpened_by_hand(temperature, top_p)
    law = n_step_law(model, 3, predictor, change=change)
    assert not follows_law_of_unsharpened(model, predictor, law)
    samples = draw(model, 3, predictor, temperature=temperature, top_p=top_p)
    check_law(index_of(samples.tokens, 3), law)


def follows_law_of_unsharpened(model, predictor, law):
    return (law - n_step_law(model, 3, predictor)).abs().sum() < 0.1


@pytest.mark.parametrize(("temperature", "top_p"), SHARPENED)
def test_sharpened_first_hitting_follows_the_mean_over_orders(temperature, top_p):
    model, p0 = small_support("absorb", "conditional", length=3)
    torch.testing.assert_close(law_of_orders(model), p0.flatten())
    samples = draw(model, 1, "first_hitting", temperature=temperature, top_p=top_p)
    law = law_of_orders(model, sharpened_by_hand(temperature, top_p))
    check_law(index_of(samples.tokens, 3), law)


@pytest.mark.parametrize("predictor", ["analytic", "euler"])
def test_sharpening_leaves_the_chance_to_reveal(predictor):
    """With the raw score too, where one draw decides on both."""
    model, _ = small_support("absorb", "raw", length=3)
    counts = []
    for temperature in (1.0, 0.2):
        seen = {}
        draw(
            *(model, 4, predictor),
            temperature=temperature,
            on_state=lambda step, t, xt, seen=seen: seen.update({step: xt}),
        )
        counts.append((seen[2] == 3).sum(-1))
    check_law(counts[1], torch.tensor([1, 3, 3, 1]) / 8.0)
    check_law(counts[0], torch.tensor([1, 3, 3, 1]) / 8.0)


@pytest.mark.parametrize(
    ("graph", "parameterization", "predictor"),
    [
        ("absorb", "conditional", "cached"),
        ("absorb", "conditional", "first_hitting"),
        ("absorb", "raw", "analytic"),
        ("uniform", "raw", "euler"),
    ],
)
def test_one_is_off(graph, parameterization, predictor):
    model, _ = small_support(graph, parameterization)
    off = draw(model, 3, predictor)
    assert torch.equal(draw(model, 3, predictor, temperature=1.0, top_p=1.0).tokens, off.tokens)
    if graph == "absorb":
        assert not torch.equal(draw(model, 3, predictor, top_p=0.5).tokens, off.tokens)
