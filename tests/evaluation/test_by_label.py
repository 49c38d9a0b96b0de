"""What counts of endings say of samples, against counting by hand."""

import math

import pytest

from pipeline.evaluation.by_label import LEAST, Endings, by_label

TRAINING = [
    *(("Anna", "F") for _ in range(19)),
    *(("Elba", "F") for _ in range(18)),
    *(("Juba", "M") for _ in range(3)),
    *(("Otto", "M") for _ in range(LEAST)),
    *(("Unsaid", None) for _ in range(LEAST)),
]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # 19 of "nna" are too few, 40 of "a" are F but for 3.
        ("Nonna", "F"),
        # 21 of "ba", of which 18 are F: 86 %.
        ("Abba", None),
        ("Lotto", "M"),
        ("", None),
        ("Unsaid", None),
        ("z" * 1000, None),
    ],
)
def test_the_longest_ending_of_enough_texts_decides_where_it_is_sure(text, value):
    assert Endings(TRAINING).assigned(text) == value


def test_shares_are_of_those_that_the_counts_are_sure_of():
    training = [(text, {"sex": sex} if sex else {}) for text, sex in TRAINING]
    samples = [
        *[("Nonna", {"sex": "F"})] * 3,
        ("Lotto", {"sex": "F"}),
        ("Abba", {"sex": "F"}),
        ("Abba", {"sex": "M"}),
    ]
    real = [("Lotto", {"sex": "M"}), ("Nonna", {"sex": "M"}), ("Nonna", {})]
    assert by_label(samples, real, training) == {
        "sex": {
            "F": {
                "num": 5,
                "num_sure": 4,
                "share": 0.75,
                "share_stderr": math.sqrt(0.75 * 0.25 / 4),
                "real_num": 0,
                "real_num_sure": 0,
                "real_share": None,
                "real_share_stderr": None,
            },
            "M": {
                "num": 1,
                "num_sure": 0,
                "share": None,
                "share_stderr": None,
                "real_num": 2,
                "real_num_sure": 2,
                "real_share": 0.5,
                "real_share_stderr": math.sqrt(0.25 / 2),
            },
        }
    }
