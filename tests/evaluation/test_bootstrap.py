import math
import time

import numpy as np
import pytest

from pipeline.evaluation.diversity import NGrams, mean_of, ratio_of
from pipeline.evaluation.scores import bootstrap_weights, over_sets, spread


def test_resamples_have_as_many_samples():
    weights = bootstrap_weights(10, 30, seed=0)
    assert weights.shape == (30, 10)
    assert (weights.sum(axis=1) == 10).all()
    np.testing.assert_array_equal(weights, bootstrap_weights(10, 30, seed=0))
    assert (weights != bootstrap_weights(10, 30, seed=1)).any()


def test_error_of_a_mean_is_the_analytic_one():
    values = np.random.default_rng(0).exponential(size=200)
    error = spread(over_sets(mean_of(values), bootstrap_weights(200, 4000, seed=0)))
    assert error == pytest.approx(values.std() / math.sqrt(200), rel=0.04)


def test_error_of_a_ratio_is_the_delta_methods():
    generator = np.random.default_rng(1)
    sizes = generator.integers(1, 9, 300)
    values = 2.0 * sizes + generator.normal(size=300)
    error = spread(over_sets(ratio_of(values, sizes), bootstrap_weights(300, 4000, seed=0)))
    residuals = values - values.sum() / sizes.sum() * sizes
    assert error == pytest.approx(residuals.std() / sizes.mean() / math.sqrt(300), rel=0.05)


def test_pieces_change_nothing():
    values = np.arange(7.0)
    weights = bootstrap_weights(7, 123, seed=0)
    np.testing.assert_array_equal(over_sets(mean_of(values), weights), weights @ values / 7)


def test_sets_with_nothing_to_measure_do_not_count():
    assert spread(np.array([1.0, math.nan, 3.0])) == pytest.approx(math.sqrt(2))
    assert math.isnan(spread(np.array([1.0, math.nan])))


def test_a_thousand_resamples_are_fast():
    ids = np.random.default_rng(0).integers(3, 55, (128, 16))
    started = time.process_time()
    weights = bootstrap_weights(128, 1000, seed=0)
    for n in (1, 2, 3):
        grams = NGrams.of(ids, np.full(128, 16), n)
        over_sets(grams.distinct, weights)
        over_sets(grams.entropy, weights)
    assert time.process_time() - started < 1
