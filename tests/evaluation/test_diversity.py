import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.diversity import NGrams, first_of_its_kind, mean_of, ratio_of, uniqueness

# "aab$", "ab$", "$": their tokens through the end count, what follows does not.
IDS = np.array([[3, 3, 4, 1, 0], [3, 4, 1, 4, 4], [1, 0, 0, 0, 0]])
NUM_TOKENS = np.array([4, 3, 1])
ALL = np.ones((1, 3))


def of(n):
    return NGrams.of(IDS, NUM_TOKENS, n)


def test_distinct_by_hand():
    # a, b, $ of eight tokens; aa, ab, b$ of five pairs; aab, ab$ of three triples.
    assert of(1).distinct(ALL)[0] == pytest.approx(3 / 8)
    assert of(2).distinct(ALL)[0] == pytest.approx(3 / 5)
    assert of(3).distinct(ALL)[0] == pytest.approx(2 / 3)


def test_entropy_by_hand():
    # 3 a, 2 b, 3 $ of eight.
    expected = -(6 / 8 * math.log(3 / 8) + 2 / 8 * math.log(2 / 8))
    assert of(1).entropy(ALL)[0] == pytest.approx(expected)


def test_entropy_of_each_text_by_hand():
    first = -(1 / 2 * math.log(1 / 2) + 1 / 2 * math.log(1 / 4))
    np.testing.assert_allclose(of(1).entropies(), [first, math.log(3), 0])


def test_even_tokens_have_the_logarithm_as_entropy():
    ids = np.arange(12).reshape(2, 6)
    tokens = NGrams.of(ids, np.array([6, 6]), 1)
    assert tokens.entropy(np.ones((1, 2)))[0] == pytest.approx(math.log(12))
    np.testing.assert_allclose(tokens.entropies(), math.log(6))


def test_sets_are_counted_with_their_weights():
    sets = np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 4], [1, 1, 0]])
    np.testing.assert_allclose(of(1).distinct(sets), [3 / 4, 3 / 6, 1 / 4, 3 / 7])
    entropies = of(1).entropies()
    np.testing.assert_allclose(of(1).entropy(sets)[:3], entropies)
    np.testing.assert_allclose(of(3).distinct(sets), [1, 1 / 2, math.nan, 2 / 3])


def test_texts_too_short_for_any_ngram():
    pairs = NGrams.of(IDS[2:], NUM_TOKENS[2:], 2)
    assert np.isnan(pairs.distinct(np.ones((2, 1)))).all()
    assert pairs.num.tolist() == [0]


def test_blocks_shorter_than_n():
    assert np.isnan(NGrams.of(np.array([[3, 1]]), np.array([2]), 3).distinct(np.ones((1, 1))))


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6),
    st.integers(1, 3),
    st.data(),
)
def test_agrees_with_counting(texts, n, data):
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(texts), max_size=len(texts)))
    ids = np.full((len(texts), 6), 9)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    counts = Counter()
    for text, weight in zip(texts, weights, strict=True):
        for i in range(len(text) - n + 1):
            counts[tuple(text[i : i + n])] += weight
    counts = +counts
    grams = NGrams.of(ids, np.array([len(text) for text in texts]), n)
    sets = np.array([weights], float)
    if not counts:
        assert np.isnan(grams.distinct(sets)[0])
        return
    total = counts.total()
    entropy = -sum(c / total * math.log(c / total) for c in counts.values())
    assert grams.distinct(sets)[0] == pytest.approx(len(counts) / total)
    assert grams.entropy(sets)[0] == pytest.approx(entropy, abs=1e-12)


def test_uniqueness():
    texts = ["Ann", "Bea", "Ann", "", "", "Ann"]
    assert uniqueness(texts)(np.ones((1, 6)))[0] == pytest.approx(3 / 6)
    sets = np.array([[1.0, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 1]])
    np.testing.assert_allclose(uniqueness(texts)(sets), [1, 1 / 3])
    assert first_of_its_kind(texts).tolist() == [1, 1, 0, 1, 0, 0]


def test_means_and_ratios():
    sets = np.array([[1.0, 1, 1], [2, 0, 1], [0, 0, 1]])
    values = np.array([1.0, 2, 6])
    np.testing.assert_allclose(mean_of(values)(sets), [3, 8 / 3, 6])
    np.testing.assert_allclose(mean_of(values, np.array([1, 1, 0]))(sets), [1.5, 1, math.nan])
    np.testing.assert_allclose(
        ratio_of(values, np.array([2, 2, 0]))(sets), [9 / 4, 8 / 4, math.nan]
    )
