"""Standard errors of any statistic of a set of samples."""

import numpy as np

from pipeline.evaluation.diversity import Statistic
from pipeline.evaluation.samples import Floats

# So many resamples at once keep a statistic's own tables small.
ROWS_AT_ONCE = 50


def bootstrap_weights(num_samples: int, num_bootstrap: int, seed: int) -> Floats:
    """How often each sample is in each resample with replacement [num_bootstrap, num_samples]."""
    generator = np.random.default_rng(seed)
    shares = np.full(num_samples, 1 / num_samples)
    return generator.multinomial(num_samples, shares, size=num_bootstrap).astype(np.float64)


def over_sets(statistic: Statistic, weights: Floats) -> Floats:
    """`statistic` of each set [R] of `weights` [R, N]."""
    pieces = np.split(weights, range(ROWS_AT_ONCE, len(weights), ROWS_AT_ONCE))
    return np.concatenate([statistic(piece) for piece in pieces])


def spread(values: Floats) -> float:
    """Standard deviation of `values` [R] (one degree of freedom used).

    Sets that leave nothing to measure do not count. NaN for fewer than two, infinite if one is.
    """
    values = values[~np.isnan(values)]
    if np.isinf(values).any():
        return float("inf")
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
