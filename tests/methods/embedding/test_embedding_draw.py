"""What a step of training draws: times, their weights, who gets an estimate, noise."""

import math

import pytest
import torch
from embedding_toy import drawn_for, objective_of

from pipeline.methods.draws import FREE

ROWS = 24


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 64])
def test_likelihood_has_one_row_in_sixteen_for_the_reconstruction(rows):
    """Each part is divided by its own number of rows: their sum is the bound's."""
    objective = objective_of(loss="likelihood", known=0.0)
    _, _, t, scale, _, _ = drawn_for(objective, rows)
    first = math.ceil(rows / 16)
    assert not t[:first].any()
    assert ((t[first:] > 0) & (t[first:] <= 1)).all()
    strata = ((1 - t[first:]) * (rows - first)).floor()
    assert sorted(strata.tolist()) == list(range(rows - first))
    assert scale[:first].sum().item() == pytest.approx(rows)
    assert rows == first or scale[first:].sum().item() == pytest.approx(rows)
    assert len(scale[:first].unique()) == 1
    assert len(scale[first:].unique()) <= 1


@pytest.mark.parametrize("loss", ["cross_entropy", "half", "mse_cross_entropy"])
def test_other_losses_have_stratified_times_and_count_all_rows_alike(loss):
    objective = objective_of(loss=loss, known=0.0)
    _, known, t, scale, _, noise = drawn_for(objective)
    assert sorted(((1 - t) * ROWS).floor().tolist()) == list(range(ROWS))
    assert torch.equal(scale, torch.ones(ROWS))
    assert bool((known == FREE).all())
    assert noise.shape == (ROWS, 5, 4)


def test_noise_is_normal_and_each_numbers_own():
    """By its moments and products of neighbours, within 4 standard errors of 20,000 numbers."""
    noise = drawn_for(objective_of(), 1000)[5]
    products = [noise * noise.roll(1, axis) for axis in range(3)]
    for found, mean, variance in (
        (noise, 0, 1),
        (noise**2, 1, 2),
        (noise**4, 3, 96),
        *((each, 0, 1) for each in products),
    ):
        bar = 4 * math.sqrt(variance / noise.numel())
        assert found.mean().item() == pytest.approx(mean, abs=bar)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_rows_gets_an_estimate_first(share):
    """Within 4 standard errors, of 4,000 rows."""
    objective = objective_of(self_condition=share)
    drawn = drawn_for(objective, 4000)
    estimated = drawn[4]
    bar = 4 * math.sqrt(share * (1 - share) / 4000)
    assert estimated.double().mean().item() == pytest.approx(share, abs=bar)
    assert torch.equal(objective.located(*drawn)[6], estimated.nonzero().squeeze(-1))
