import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_scorers import (
    EOS,
    PAD,
    plain_nats,
    samples_of,
    save_tiny_lm,
    scorer_of,
    tiny_id_scorer,
    tiny_model,
)

from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import CheckpointError, DataError
from pipeline.evaluation import causal, gen_ppl
from pipeline.evaluation.causal import GPT2, CausalLM
from pipeline.evaluation.gen_ppl import Likelihood, likelihood
from pipeline.evaluation.scorer import load_scorer

OTHER = train_char_tokenizer(["another"]).definition
IDS = [
    [3, 4, EOS, PAD, PAD, PAD],
    [EOS, PAD, PAD, PAD, PAD, PAD],
    [5, 5, 3, 4, 3, EOS],
    [3, 4, 5, 3, 4, 5],  # no end: every token counts
    [4, EOS, 3, EOS, 3, 3],  # not well-formed: what follows the first eos does not count
    [4, PAD, 3, EOS, PAD, PAD],
]
NUM_TOKENS = [3, 1, 6, 6, 2, 4]


@pytest.fixture
def id_scorer():
    return tiny_id_scorer()


@pytest.fixture
def model_folder(tmp_path):
    return save_tiny_lm(tmp_path / "tiny-lm")


def all_at_once(values, num_sets=1):
    return np.ones((num_sets, len(values)))


def score(scorer, samples, batch_size=4):
    return likelihood(scorer, samples, eos_id=EOS, batch_size=batch_size)


def test_ids_are_scored_through_the_first_eos(id_scorer):
    found = score(id_scorer, samples_of(IDS))
    assert found.num_tokens.tolist() == NUM_TOKENS
    expected = [
        plain_nats(tiny_model(6, 6), [EOS], ids[:num])
        for ids, num in zip(IDS, NUM_TOKENS, strict=True)
    ]
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)
    assert found.nats.dtype == np.float64


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batch_size_changes_nothing_but_rounding(id_scorer, batch_size):
    ids = np.random.default_rng(0).integers(0, 6, (20, 6))
    whole = score(id_scorer, samples_of(ids), batch_size=20)
    found = score(id_scorer, samples_of(ids), batch_size=batch_size)
    np.testing.assert_allclose(found.nats, whole.nats, rtol=1e-5)
    np.testing.assert_array_equal(found.num_tokens, whole.num_tokens)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (GPT2, [[6, 6], [6, 4], [3, 2], [1]]),
        # 4 and 3 with padding; others are too far apart to share a forward.
        (CausalLM, [[6, 6], [6], [4, 3], [2], [1]]),
    ],
)
def test_each_batch_is_one_forward(monkeypatch, kind, expected):
    scorer = scorer_of(tiny_model(6, 6), kind=kind)
    calls = []
    states = scorer.model.states

    def counted(texts):
        calls.append([len(text) for text in texts])
        return states(texts)

    monkeypatch.setattr(scorer.model, "states", counted)
    score(scorer, samples_of([*IDS, IDS[2]]), batch_size=2)
    assert calls == expected


@pytest.mark.parametrize("kind", [GPT2, CausalLM])
@pytest.mark.parametrize(("max_tokens", "max_padding"), [(1, 0.125), (13, 0.5), (4096, 0.9)])
def test_what_shares_a_forward_changes_nothing_but_rounding(
    monkeypatch, kind, max_tokens, max_padding
):
    expected = score(scorer_of(tiny_model(6, 6)), samples_of(IDS))
    monkeypatch.setattr(gen_ppl, "MAX_TOKENS", max_tokens)
    monkeypatch.setattr(gen_ppl, "MAX_PADDING", max_padding)
    monkeypatch.setattr(causal, "LOGITS", 1)
    found = score(scorer_of(tiny_model(6, 6), kind=kind), samples_of(IDS))
    np.testing.assert_allclose(found.nats, expected.nats, rtol=1e-5)
    np.testing.assert_array_equal(found.num_tokens, expected.num_tokens)


def batches_of(pads):
    random = np.random.default_rng(0)
    windows = [gen_ppl._Window(0, [0] * n, n) for n in random.integers(2, 300, size=200)]
    batches = gen_ppl._batches(windows, 32, pads)
    assert sorted(len(w.ids) for b in batches for w in b) == sorted(len(w.ids) for w in windows)
    assert len(batches) < 20
    return [[len(window.ids) for window in batch] for batch in batches]


def test_batches_hold_little_padding_and_no_more_than_they_may():
    for lengths in batches_of(pads=True):
        assert len(lengths) <= 32
        assert len(lengths) * max(lengths) <= gen_ppl.MAX_TOKENS
        assert sum(lengths) >= (1 - gen_ppl.MAX_PADDING) * len(lengths) * max(lengths)


def test_batches_without_padding_are_as_full_as_they_may_be():
    batches = batches_of(pads=False)
    for lengths, following in pairwise(batches):
        assert len(lengths) <= 32
        assert sum(lengths) <= gen_ppl.MAX_TOKENS
        assert len(lengths) == 32 or sum(lengths) + following[0] > gen_ppl.MAX_TOKENS


def test_bfloat16_has_the_mean_of_float32():
    """On a model of GPT-2's shape, with logits that all lie far from 0."""
    model = tiny_model(500, 64, width=64, scale=1.0)
    model.lm_head.weight.data.add_(torch.randn(64))
    ids = np.random.default_rng(0).integers(3, 500, (64, 64))
    narrow, wide = (
        score(scorer_of(model, precision), samples_of(ids)) for precision in ("bfloat16", "float32")
    )
    assert 0 < np.abs(narrow.nats - wide.nats).max() / 64 < 0.02
    assert narrow.nats.mean() / 64 == pytest.approx(wide.nats.mean() / 64, abs=5e-3)


def test_both_means():
    """Two sequences at 3 and 5 nats a token, of one and three tokens."""
    found = Likelihood(np.array([3.0, 15.0, 0.0]), np.array([1, 3, 0]))
    every = all_at_once(found.nats)
    assert found.gen_ppl(every)[0] == pytest.approx(math.exp(18 / 4))
    assert found.gen_ppl_mean_of_exp(every)[0] == pytest.approx((math.exp(3) + math.exp(5)) / 2)


def test_means_over_chosen_sets():
    found = Likelihood(np.array([3.0, 15.0, 0.0]), np.array([1, 3, 0]))
    sets = np.array([[2.0, 0, 1], [1, 1, 0], [0, 0, 3]])
    expected = [math.exp(3), math.exp(18 / 4), math.nan]
    np.testing.assert_allclose(found.gen_ppl(sets), expected)
    expected = [math.exp(3), (math.exp(3) + math.exp(5)) / 2, math.nan]
    np.testing.assert_allclose(found.gen_ppl_mean_of_exp(sets), expected)


def text_scorer(folder):
    return load_scorer(
        str(folder),
        baseline=folder,
        tokenizer=OTHER,
        start_id=9,
        device=torch.device("cpu"),
        precision="float32",
    )


def test_text_is_scored_in_the_scorers_own_tokens(model_folder):
    texts = ["Anna", "", "Isabella", "<p>Zoë"]
    scorer = text_scorer(model_folder.path)
    assert scorer.name == "tiny-lm"
    found = score(scorer, samples_of(np.full((4, 3), 99), texts))
    start = model_folder.tokenizer.eos_token_id
    for text, nats, num in zip(texts, found.nats, found.num_tokens, strict=True):
        tokens = model_folder.tokenizer.encode(text)
        assert num == len(tokens)
        assert nats == pytest.approx(plain_nats(model_folder.model, [start], tokens), rel=1e-5)
    assert found.num_tokens[1] == 0
    assert found.num_tokens[3] > 5  # no special token of the samples' tokenizer is one here
    assert found.scored.tolist() == [1, 0, 1, 1]


def test_a_special_token_that_a_text_spells_is_text(model_folder):
    scorer = text_scorer(model_folder.path)
    [ids] = scorer.encode(["a<|end|>b"])
    assert scorer.start_id not in ids
    assert "".join(model_folder.tokenizer.convert_ids_to_tokens(ids)) == "a<|end|>b"


def test_a_tokenizer_of_more_ids_than_the_model_has(model_folder):
    tiny_model(200, 8).save_pretrained(model_folder.path)
    with pytest.raises(DataError, match=r"the token id \d+ for its own tokenizer, .* 0 to 199"):
        score(text_scorer(model_folder.path), samples_of([[0]], ["Isabella"]))


def test_long_text_is_scored_in_overlapping_windows(model_folder):
    scorer = text_scorer(model_folder.path)
    assert scorer.model.max_tokens == 8
    text = "xyzxyyzzxyzwxzyxwzyxyz"
    tokens = model_folder.tokenizer.encode(text)
    assert len(tokens) == 22
    found = score(scorer, samples_of([[0]], [text]))
    ids = [model_folder.tokenizer.eos_token_id, *tokens]
    expected = plain_nats(model_folder.model, ids[:1], ids[1:9])
    # Then four at a time, after the four before them (and these are the input, not the start).
    for done in (8, 12, 16, 20):
        new = ids[done + 1 : done + 5]
        end = done + 1 + len(new)
        context = ids[end - 1 - 8 : done + 1]
        expected += plain_nats(model_folder.model, context, new)
    assert found.nats[0] == pytest.approx(expected, rel=1e-5)
    assert found.num_tokens[0] == 22


def test_text_of_just_the_longest_input_needs_no_window(model_folder):
    scorer = text_scorer(model_folder.path)
    found = score(scorer, samples_of([[0]], ["xyzxyyzz"]))
    tokens = model_folder.tokenizer.encode("xyzxyyzz")
    assert len(tokens) == 8
    start = model_folder.tokenizer.eos_token_id
    expected = plain_nats(model_folder.model, [start], tokens)
    assert found.nats[0] == pytest.approx(expected, rel=1e-5)


def test_ids_that_the_scorer_does_not_know(id_scorer):
    with pytest.raises(DataError, match=r"sample 1 holds the token id 6, .* knows 0 to 5"):
        score(id_scorer, samples_of([[3, EOS], [6, EOS]]))


def test_ids_longer_than_the_scorers_blocks_are_scored_in_windows(id_scorer):
    ids = [3, 4, 5, 4, 3, 5, 5, 4]
    found = score(id_scorer, samples_of([ids]))
    model = tiny_model(6, 6)
    expected = plain_nats(model, [EOS], ids[:6]) + plain_nats(model, ids[1:6], ids[6:])
    assert found.nats[0] == pytest.approx(expected, rel=1e-5)
    assert found.num_tokens[0] == 8


def test_likelihood_that_is_not_finite(id_scorer):
    model = tiny_model(6, 6)
    model.transformer.wpe.weight.data[2] = math.nan
    with pytest.raises(CheckpointError, match=r"no finite .* for 4 of 6 texts, the first is 0"):
        score(scorer_of(model), samples_of(IDS), batch_size=1)


def test_nothing_to_score_at_all(model_folder):
    found = score(text_scorer(model_folder.path), samples_of([[EOS], [EOS]], ["", ""]))
    assert found.num_tokens.tolist() == [0, 0]
    assert found.nats.tolist() == [0, 0]
    assert np.isnan(found.gen_ppl(all_at_once(found.nats)))


def test_half_precision_weights_are_read_as_float32(model_folder):
    texts = samples_of(np.full((2, 3), 99), ["Anna", "xyzw"])
    model_folder.model.half().save_pretrained(model_folder.path)
    found = score(text_scorer(model_folder.path), texts)
    start = model_folder.tokenizer.eos_token_id
    model = model_folder.model.float()
    for text, nats in zip(texts.texts, found.nats, strict=True):
        tokens = model_folder.tokenizer.encode(text)
        assert nats == pytest.approx(plain_nats(model, [start], tokens), rel=1e-5)


@pytest.mark.gpu
def test_gpu_gives_the_same_likelihoods():
    ours, theirs = (score(tiny_id_scorer(on), samples_of(IDS)) for on in ("cpu", "cuda"))
    np.testing.assert_allclose(ours.nats, theirs.nats, rtol=1e-4)
