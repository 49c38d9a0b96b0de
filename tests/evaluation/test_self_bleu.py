"""Self-BLEU against the numbers that NLTK 3.10.4 gives for the same texts."""

import numpy as np
import pytest

from pipeline.evaluation.self_bleu import brevity, self_bleu

# sentence_bleu of each against the others, SmoothingFunction().method1.
NLTK = [
    (
        [[3, 4, 5, 3, 4, 5, 6], [3, 4, 5, 6, 7], [8, 8, 8], [3, 4, 5, 3, 4, 5, 6], [9]],
        [1.0, 0.668740304976422, 0, 1.0, 0],
    ),
    (
        [
            [3, 0, 2, 4, 3, 3, 2],
            [2, 4, 1, 4, 1, 2, 1, 0],
            [2, 4, 5, 4, 1, 2, 0, 5, 0, 5],
            [3, 4, 0, 2, 3, 2],
            [5, 1, 4, 3, 3, 4, 2, 0, 4, 0],
            [5, 3],
            [5, 5, 0, 4, 3, 2, 1, 5, 2, 5, 0, 1],
            [1, 1, 1, 4, 3, 0, 0, 2, 4, 3],
        ],
        [
            0.5988059642324198,
            0.22089591134157885,
            0.17747405280050269,
            0.13601749477888153,
            0.223606797749979,
            0.024066394763145416,
            0.08248720006399611,
            0.4153509237206396,
        ],
    ),
    (
        [
            [0, 2, 2, 0, 2, 1, 2, 3, 0, 3, 2, 1, 2, 1, 1, 1, 0, 2, 3, 0],
            [0, 1, 1, 0, 0, 3, 2, 1, 1, 3, 2, 3, 3, 2, 0, 2, 0, 3, 2, 1],
            [1, 0, 2, 0, 1, 2, 1, 2, 3, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 3],
            [0, 2, 0, 0, 0, 1, 1, 0, 3, 1, 0, 0, 3, 0, 2, 0, 1, 0, 2, 2],
            [3, 1, 0, 3, 0, 0, 3, 1, 2, 2, 3, 1, 1, 0, 1, 1, 2, 2, 0, 3],
        ],
        [
            0.5464463020975288,
            0.5570937034729778,
            0.744373319312051,
            0.6946497128917402,
            0.22537412722674852,
        ],
    ),
    (
        [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 9, 9, 9, 9]],
        [0.16990442448471224, 0, 0.08633400213704504],
    ),
]


def padded(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """ids [N, L], of which the first of each row count, and how many [N]."""
    ids = np.full((len(texts), max(map(len, texts)) + 1), 3)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    return ids, np.array([len(text) for text in texts])


@pytest.mark.parametrize(("texts", "expected"), NLTK)
def test_equal_to_nltk(texts: list[list[int]], expected: list[float]) -> None:
    np.testing.assert_allclose(self_bleu(*padded(texts)), expected, rtol=0, atol=1e-12)


def test_a_text_alone_repeats_no_other() -> None:
    assert np.isnan(self_bleu(*padded([[3, 4]]))).all()


def test_brevity_is_against_the_nearest_length_the_shorter_of_two() -> None:
    # 4 against 6, 6 against 4 and not 8, 8 against 8.
    expected = [np.exp(1 - 6 / 4), 1, 1, 1]
    np.testing.assert_allclose(brevity(np.array([4, 6, 8, 8])), expected)
