"""Self-BLEU (Zhu et al., 1802.01886): how far texts repeat one another, over token ids."""

import math

import numpy as np

from pipeline.evaluation.diversity import NGrams
from pipeline.evaluation.samples import Floats, Ints

ORDERS = (1, 2, 3, 4)
EPSILON = 0.1
"""What stands for no match at all of an order above 1, as NLTK's smoothing `method1` has it."""


def self_bleu(ids: Ints, num_tokens: Ints) -> Floats:
    """BLEU of each text, through `num_tokens` [N] of `ids` [N, L], against all others [N].

    Equal to NLTK's `sentence_bleu` with smoothing `method1`. NaN for a text without others.
    """
    if len(ids) < 2:
        return np.full(len(ids), np.nan)
    log_mean = np.zeros(len(ids))
    matches_any = np.ones(len(ids), bool)
    for n in ORDERS:
        grams = NGrams.of(ids, num_tokens, n)
        matched = np.bincount(grams.sample, clipped(grams), minlength=len(ids))
        if n == 1:
            matches_any = matched > 0
        found = np.where(matched > 0, matched, EPSILON) / np.maximum(grams.num, 1)
        log_mean += np.log(found) / len(ORDERS)
    scores: Floats = np.where(matches_any, brevity(num_tokens) * np.exp(log_mean), 0)
    return scores


def clipped(grams: NGrams) -> Ints:
    """Of each entry's occurrences those that one other text has too [E].

    The most that others have is the largest count of that n-gram, or the second largest where the
    largest is the text's own.
    """
    run = np.zeros(len(grams.count), np.int64)
    run[grams.first[1:]] = 1
    run = run.cumsum()
    most = np.maximum.reduceat(grams.count, grams.first)[run]
    has_most = grams.count == most
    is_alone = np.add.reduceat(has_most.astype(np.int64), grams.first)[run] == 1
    second = np.maximum.reduceat(np.where(has_most, 0, grams.count), grams.first)[run]
    others = np.where(has_most & is_alone, second, most)
    return np.minimum(grams.count, others)


def brevity(num_tokens: Ints) -> Floats:
    """The penalty of each text [N] for being shorter than the other that is nearest in length."""
    lengths, counts = np.unique(num_tokens, return_counts=True)
    penalties = {}
    for place, length in enumerate(lengths.tolist()):
        others = lengths[[place]] if counts[place] > 1 else np.delete(lengths, place)
        nearest = min(others.tolist(), key=lambda other: (abs(other - length), other))
        penalties[length] = 1.0 if length > nearest else math.exp(1 - nearest / max(length, 1))
    return np.array([penalties[length] for length in num_tokens.tolist()])
