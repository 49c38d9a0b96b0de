"""Fixed tokens: exact conditioning with absorb, none with uniform."""

import pytest
import torch
from chains import draw, given, n_step_law, small_support, transformer
from toy import check_law, index_of, total_variation

from pipeline.methods.draws import FREE

GAPS = {
    "prefix": [2, FREE, FREE],
    "suffix": [FREE, FREE, 1],
    "middle": [2, FREE, 1],
    "two gaps": [FREE, 1, FREE],
}
given_tokens = pytest.mark.parametrize(
    "fixed", [torch.tensor(ids) for ids in GAPS.values()], ids=GAPS
)


@given_tokens
def test_first_hitting_follows_the_exact_conditional(fixed):
    model, p0 = small_support("absorb", "conditional", length=3)
    samples = draw(model, 1, "first_hitting", fixed=fixed)
    check_law(index_of(samples.tokens, 3), given(p0, fixed))
    assert bool((samples.nfe == (fixed == FREE).sum()).all())
    assert total_variation(given(p0, fixed), p0.flatten()) > 0.1


@given_tokens
@pytest.mark.parametrize(
    ("graph", "parameterization", "predictor"),
    [
        ("absorb", "conditional", "analytic"),
        ("absorb", "conditional", "euler"),
        ("absorb", "conditional", "cached"),
        ("absorb", "raw", "analytic"),
        ("absorb", "raw", "euler"),
        ("uniform", "raw", "analytic"),
        ("uniform", "raw", "euler"),
    ],
)
def test_others_follow_their_enumerated_chain(fixed, graph, parameterization, predictor):
    model, _ = small_support(graph, parameterization, length=3)
    samples = draw(model, 3, predictor, fixed=fixed)
    assert bool((samples.tokens == fixed)[:, fixed != FREE].all())
    check_law(index_of(samples.tokens, 3), n_step_law(model, 3, predictor, fixed))


@given_tokens
@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_absorb_conditions_in_the_limit(fixed, parameterization):
    model, p0 = small_support("absorb", parameterization, length=3)
    exact = given(p0, fixed)
    distance = [
        total_variation(n_step_law(model, n, "analytic", fixed), exact) for n in (32, 64, 128)
    ]
    if (fixed == FREE).sum() == 1:
        # One token alone is drawn from its exact distribution in any step.
        assert max(distance) < 1e-4
    else:
        assert distance[1] / distance[0] == pytest.approx(0.5, abs=0.05)
        assert distance[2] / distance[1] == pytest.approx(0.5, abs=0.05)
        assert distance[2] < 0.01


def test_uniform_does_not_condition_at_any_number_of_steps():
    """Clamped tokens look noised: the distance from the conditional stays as steps go up."""
    model, p0 = small_support("uniform", "raw", length=3)
    for ids in GAPS.values():
        fixed = torch.tensor(ids)
        exact = given(p0, fixed)
        coarse, fine = (
            total_variation(n_step_law(model, n, "analytic", fixed), exact) for n in (64, 256)
        )
        assert fine > 0.02
        assert fine == pytest.approx(coarse, rel=0.1)


@pytest.mark.parametrize("predictor", ["cached", "first_hitting", "analytic"])
def test_everything_fixed_needs_no_evaluation(predictor):
    model, _ = small_support("absorb", "conditional", length=3)
    states = []
    samples = draw(
        *(model, 4, predictor),
        num=5,
        fixed=torch.tensor([2, 0, 1]),
        on_state=lambda *state: states.append(state[2]),
    )
    assert samples.tokens.tolist() == [[2, 0, 1]] * 5
    assert samples.calls == int(samples.nfe.sum()) == 0
    assert len(states) == 6


@pytest.mark.parametrize("predictor", ["cached", "first_hitting", "analytic"])
def test_shorter_than_the_model_is_the_law_of_that_length(predictor):
    """One position alone: its distribution given nothing, whatever stands elsewhere."""
    model = transformer(8)
    with torch.no_grad():
        law = model.log_p(torch.full((1, 1), 7)).exp()[0, 0]
    samples = draw(model, 2, predictor, length=1)
    assert samples.tokens.shape == (20_000, 1)
    check_law(samples.tokens[:, 0], law)
    fixed = torch.tensor([FREE, 3, FREE, FREE, 5])
    samples = draw(model, 2, predictor, num=50, length=5, fixed=fixed)
    assert bool((samples.tokens[:, [1, 4]] == torch.tensor([3, 5])).all())
    assert samples.tokens.max() < 7
