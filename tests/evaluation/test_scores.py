import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_scorers import EOS, PAD, UNK, samples_of

from pipeline.errors import PipelineError
from pipeline.evaluation.gen_ppl import Likelihood
from pipeline.evaluation.scores import (
    Scored,
    by_sample,
    draw_weights,
    score_draws,
    score_samples,
    statistics,
)

VOCABULARY = SimpleNamespace(
    size=6,
    pad_id=PAD,
    eos_id=EOS,
    unk_id=UNK,
    special_ids={PAD, EOS, UNK},
    is_invalid_utf8=lambda ids, mode: ids[0] == 5,
)
SCORER = SimpleNamespace(name="tiny", sha256="ab" * 32, precision="float32")
TEXTS = ["cd", "ef", "cd", ""]
IDS = [[3, 4, EOS, PAD], [5, 5, EOS, PAD], [3, 4, EOS, PAD], [EOS, PAD, PAD, 3]]
FOUND = Likelihood(np.array([3.0, 9.0, 3.0, 0.0]), np.array([3, 3, 3, 0]))
METRICS = [
    "gen_ppl",
    "gen_ppl_mean_of_exp",
    "gen_ppl_sedd",
    "gen_ppl_mdlm",
    "entropy",
    "entropy_per_sample",
    "entropy_per_sample_bits",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "rep_4",
    "uniqueness",
    "novelty",
    "held_out",
    "well_formed",
    "invalid_utf8",
    "nfe",
    "self_bleu",
]


def known(samples=None, likelihood=FOUND):
    samples = samples_of(IDS, TEXTS) if samples is None else samples
    return Scored(samples, likelihood, SCORER, VOCABULARY, {"cd"}, {"ef"})


def scored(samples=None, likelihood=FOUND, *, num_bootstrap=200, seed=0):
    return score_samples(known(samples, likelihood), num_bootstrap, seed)


def test_every_figure_by_hand():
    row = scored()
    assert row["num_steps"] == 8
    assert (row["num_samples"], row["num_scored"], row["num_tokens"]) == (4, 3, 9)
    assert row["excluded"] == [3]
    assert row["scorer"] == {"name": "tiny", "sha256": "ab" * 32, "precision": "float32"}
    expected = {
        "gen_ppl": math.exp(15 / 9),
        "gen_ppl_mean_of_exp": (2 * math.exp(1) + math.exp(3)) / 3,
        "entropy": -sum(n / 10 * math.log(n / 10) for n in (2, 2, 2, 4)),
        "entropy_per_sample": (2 * math.log(3) + math.log(3) - 2 / 3 * math.log(2)) / 4,
        "distinct_1": 4 / 10,
        "distinct_2": 4 / 6,
        "distinct_3": 2 / 3,
        "entropy_per_sample_bits": (3 * math.log2(3) - 2 / 3) / 4,
        "uniqueness": 3 / 4,
        "novelty": 2 / 4,
        "held_out": 1 / 4,
        "well_formed": 3 / 4,
        "invalid_utf8": 1 / 4,
        "nfe": 3.0,
    }
    # No text has four tokens, or repeats one of its four.
    assert row["rep_4"] is row["gen_ppl_sedd"] is row["gen_ppl_mdlm"] is None
    # The first and third are equal, the second shares their end, the last has no other to share.
    for name, value in expected.items():
        assert row[name] == pytest.approx(value), name
        assert row[f"{name}_stderr"] >= 0
    assert row["nfe_stderr"] == 0


def test_keys_are_those_of_the_report():
    counts = ["num_steps", "num_samples", "num_scored", "excluded", "num_tokens", "scorer"]
    figures = [key for name in METRICS for key in (name, f"{name}_stderr")]
    assert list(scored()) == counts + figures


def test_error_of_uniqueness_is_the_binomial_one():
    """Of 200 texts each eighth repeats the first; resampling texts would find 63% unique."""
    texts = ["again" if i % 8 == 0 else f"text {i}" for i in range(200)]
    samples = samples_of(np.full((200, 2), EOS), texts)
    likelihood = Likelihood(np.ones(200), np.ones(200, np.int64))
    row = scored(samples, likelihood, num_bootstrap=2000)
    share = 176 / 200
    assert row["uniqueness"] == pytest.approx(share)
    expected = math.sqrt(share * (1 - share) / 200)
    assert row["uniqueness_stderr"] == pytest.approx(expected, rel=0.06)


def test_same_seed_same_bytes():
    assert json.dumps(scored()) == json.dumps(scored())
    assert scored(seed=1) != scored()


def test_nothing_scored_is_null_and_still_json():
    samples = samples_of([[EOS, PAD]] * 3, [""] * 3)
    row = scored(samples, Likelihood(np.zeros(3), np.zeros(3, np.int64)))
    assert row["num_scored"] == 0
    assert row["excluded"] == [0, 1, 2]
    assert row["gen_ppl"] is row["gen_ppl_stderr"] is row["gen_ppl_mean_of_exp"] is None
    assert row["distinct_2"] is None
    assert row["entropy"] == 0
    json.dumps(row, allow_nan=False)


def test_infinite_perplexity_is_an_error():
    likelihood = Likelihood(np.full(4, 1e4), np.array([1, 1, 1, 1]))
    with pytest.raises(PipelineError, match="gen_ppl is infinite"):
        scored(likelihood=likelihood)


def test_draws_hold_no_text_twice():
    draws = draw_weights(50, 20, 9, seed=0)
    assert draws.shape == (9, 50)
    assert set(np.unique(draws)) == {0, 1}
    assert (draws.sum(axis=1) == 20).all()
    assert len({row.tobytes() for row in draws}) == 9
    np.testing.assert_array_equal(draws, draw_weights(50, 20, 9, seed=0))


def test_draws_are_averaged_and_their_spread_is_the_error():
    samples = samples_of(IDS, TEXTS, nfe=0.0)
    figures = statistics(known(samples))
    draws = np.array([[1.0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]])
    row = score_draws(known(samples), draws)
    gen_ppl = [math.exp(2), math.exp(2), math.exp(1)]
    assert row["gen_ppl"] == pytest.approx(np.mean(gen_ppl))
    assert row["gen_ppl_stderr"] == pytest.approx(np.std(gen_ppl, ddof=1))
    assert row["uniqueness"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert row["entropy"] == pytest.approx(
        np.mean([figures["entropy"](draw[None])[0] for draw in draws])
    )
    assert (row["num_samples"], row["num_scored"], row["num_tokens"]) == (2, 2, 6)
    assert row["excluded"] == []
    assert (row["nfe"], row["nfe_stderr"]) == (0, 0)


def test_draws_list_what_they_exclude():
    row = score_draws(known(), np.array([[1.0, 0, 0, 1], [0, 1, 1, 0]]))
    assert row["excluded"] == [3]
    assert row["num_scored"] == 2  # one and two


def test_what_is_known_of_each_sample_by_itself():
    assert by_sample(known()) == {
        "index": [0, 1, 2, 3],
        "nats": [3.0, 9.0, 3.0, 0.0],
        "scored_tokens": [3, 3, 3, 0],
        "well_formed": [True, True, True, False],
        "in_train": [True, False, True, False],
        "in_held_out": [False, True, False, False],
    }
