"""How varied texts are: figures that fall when a sampler trades diversity for likelihood.

A statistic takes weights [R, N], how often each of N texts counts in each of R sets, and gives
its value for each set [R]; NaN where a set leaves nothing to measure. So one formula serves the
samples (all ones), their bootstrap resamples, and draws of real text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.evaluation.samples import Floats, Ints

Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class NGrams:
    """How often each distinct n-gram occurs in each text: runs of entries, one run an n-gram.

    Attributes:
        sample: the text of each entry [E].
        count: occurrences of the n-gram in that text [E].
        first: where each n-gram's run starts [G].
        num: n-grams in each text, repeats counted [N].
    """

    sample: Ints
    count: Ints
    first: Ints
    num: Ints

    @classmethod
    def of(cls, ids: Ints, num_tokens: Ints, n: int) -> Self:
        """Count n-grams inside the first `num_tokens` [N] of each row of `ids` [N, L]."""
        # Columns beyond the end give even the shortest row a window; none of them counts.
        padded = np.pad(ids, ((0, 0), (0, n - 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, n, axis=1)
        inside = np.arange(ids.shape[1]) < num_tokens[:, None] - n + 1
        sample = np.nonzero(inside)[0]
        entries, count = np.unique(
            np.column_stack([windows[inside], sample]), axis=0, return_counts=True
        )
        starts = np.ones(len(entries), bool)
        starts[1:] = (entries[1:, :n] != entries[:-1, :n]).any(axis=1)
        num = np.bincount(sample, minlength=len(ids))
        return cls(entries[:, n], count, np.flatnonzero(starts), num)

    def totals(self, weights: Floats) -> Floats:
        """Occurrences of each n-gram in sets of texts with `weights` [R, N] -> [R, G]."""
        totals: Floats = np.add.reduceat(weights[:, self.sample] * self.count, self.first, axis=1)
        return totals

    def distinct(self, weights: Floats) -> Floats:
        """Share of n-grams that are distinct, pooled over a set [R] (Li et al., 1510.03055)."""
        return _ratio((self.totals(weights) > 0).sum(axis=1), weights @ self.num)

    def entropy(self, weights: Floats) -> Floats:
        """Entropy of the n-grams pooled over a set [R], nats."""
        totals = self.totals(weights)
        shares = _ratio(totals, totals.sum(axis=1, keepdims=True))
        return -(shares * np.log(np.where(totals > 0, shares, 1))).sum(axis=1)

    def repeated(self) -> Floats:
        """Share of each text's n-grams that repeat one before [N]: NaN without any."""
        distinct = np.bincount(self.sample, minlength=len(self.num))
        return 1 - _ratio(distinct, self.num)

    def entropies(self) -> Floats:
        """Entropy of the n-grams of each text by itself [N], nats."""
        shares = self.count / self.num[self.sample]
        entropies = np.bincount(self.sample, -shares * np.log(shares), minlength=len(self.num))
        return entropies.astype(np.float64)


def mean_of(values: Floats, counted: Ints | None = None) -> Statistic:
    """The mean over texts of `values` [N]; `counted` [N] leaves out those with a 0."""
    one_each = np.ones(len(values)) if counted is None else counted
    return lambda weights: _ratio(weights @ (values * one_each), weights @ one_each)


def ratio_of(values: Floats, sizes: Ints) -> Statistic:
    """The sum of `values` [N] over the sum of `sizes` [N]."""
    return lambda weights: _ratio(weights @ values, weights @ sizes)


def uniqueness(texts: Sequence[str]) -> Statistic:
    """Share of distinct texts in a set."""
    _, which = np.unique(np.array(texts, dtype=object), return_inverse=True)
    one = np.ones(len(texts), np.int64)
    return NGrams.of(which[:, None], one, 1).distinct


def first_of_its_kind(texts: Sequence[str]) -> Floats:
    """1 for a text that none before it equals, 0 for a repeat [N]; the mean is the uniqueness."""
    _, first = np.unique(np.array(texts, dtype=object), return_index=True)
    new = np.zeros(len(texts))
    new[first] = 1
    return new


def _ratio(numerator: Floats | Ints, denominator: Floats | Ints) -> Floats:
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)
