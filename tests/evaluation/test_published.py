"""Generative perplexity as the papers' code has it, against forwards of one token each."""

import math

import numpy as np
import pytest
import torch
from tiny_scorers import EOS, PAD, plain_nats, samples_of, save_tiny_lm, tiny_id_scorer, tiny_model

from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import DataError
from pipeline.evaluation import gen_ppl
from pipeline.evaluation.published import counted, published, retokenized
from pipeline.evaluation.scorer import load_scorer

LETTERS = train_char_tokenizer(["abc"])
IDS = [
    [3, 4, EOS, 5, EOS, 3],
    [5, 5, 3, 4, 3, 5],
    [EOS, 3, EOS, EOS, 4, 4],
    [3, PAD, 4, 4, 4, 4],  # "a<pad>bbbb": five pieces that are unknown, two letters, cut at six
]
AGAIN = [*IDS[:3], [3, 2, 2, 3, 2, 2]]
COUNTED = [[1, 1, 1, 0, 1], [1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [1, 1, 1, 1, 1]]


def found(scorer, ids=IDS, batch_size=2):
    how = {"batch_size": batch_size}
    return published(scorer, samples_of(ids), LETTERS, **how)


def by_token(model, ids):
    """Nats of each token but the first, nothing before it."""
    return [plain_nats(model, ids[:at], ids[at : at + 1]) for at in range(1, len(ids))]


def test_sedd_scores_every_id_but_the_first_and_takes_the_mean_of_exponentials():
    scored = found(tiny_id_scorer())["sedd"]
    expected = [sum(by_token(tiny_model(6, 6), ids)) for ids in IDS]
    np.testing.assert_allclose(scored.nats, expected, rtol=1e-5)
    assert scored.num_tokens.tolist() == [5] * 4
    mean = np.mean([math.exp(nats / 5) for nats in expected])
    assert scored.gen_ppl_mean_of_exp(np.ones((1, 4)))[0] == pytest.approx(mean, rel=1e-5)


def test_mdlm_tokenizes_again_and_counts_the_first_end():
    scored = found(tiny_id_scorer())["mdlm"]
    expected = [
        np.dot(by_token(tiny_model(6, 6), ids), mask)
        for ids, mask in zip(AGAIN, COUNTED, strict=True)
    ]
    np.testing.assert_allclose(scored.nats, expected, rtol=1e-5)
    assert scored.num_tokens.tolist() == [sum(mask) for mask in COUNTED]
    mean = sum(expected) / sum(map(sum, COUNTED))
    assert scored.gen_ppl(np.ones((1, 4)))[0] == pytest.approx(math.exp(mean), rel=1e-5)


def test_ends_after_the_first_do_not_count():
    assert [mask.tolist() for mask in counted([[7, 9, 9, 5, 9], [9, 5, 9, 9, 6]], 9)] == [
        [1, 0, 1, 0],
        [1, 0, 0, 1],
    ]


def test_what_tokenizes_to_itself_is_in_one_forward(monkeypatch):
    scorer = tiny_id_scorer()
    calls = []
    states = scorer.model.states

    def watched(texts):
        calls.extend(text.tolist() for text in texts)
        return states(texts)

    monkeypatch.setattr(scorer.model, "states", watched)
    found(scorer)
    assert sorted(calls) == sorted(ids[:-1] for ids in [*IDS, AGAIN[3]])


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_changes_nothing_but_rounding(monkeypatch, batch_size):
    whole = found(tiny_id_scorer())
    monkeypatch.setattr(gen_ppl, "MAX_TOKENS", 7)
    for name, scored in found(tiny_id_scorer(), batch_size=batch_size).items():
        np.testing.assert_allclose(scored.nats, whole[name].nats, rtol=1e-5)


def test_a_scorer_that_reads_text_has_no_ids_of_theirs(tmp_path):
    tiny = save_tiny_lm(tmp_path / "tiny-lm")
    scorer = load_scorer(
        str(tiny.path), baseline=tmp_path, tokenizer=LETTERS.definition, start_id=EOS,
        device=torch.device("cpu"), precision="float32",
    )  # fmt: skip
    scored = found(scorer)
    assert scored.keys() == {"mdlm"}
    end = tiny.tokenizer.eos_token_id
    again = retokenized(scorer, np.array(IDS), LETTERS)
    assert again[0] == [*tiny.tokenizer("ab")["input_ids"], end,
                        *tiny.tokenizer("c")["input_ids"], end,
                        *tiny.tokenizer("a")["input_ids"]]  # fmt: skip
    cut = [ids[:8] for ids in again]
    masks = [mask.tolist() for mask in counted(cut, end)]
    expected = [
        np.dot(by_token(tiny.model, ids), mask) for ids, mask in zip(cut, masks, strict=True)
    ]
    np.testing.assert_allclose(scored["mdlm"].nats, expected, rtol=1e-5)


def test_an_id_that_the_scorer_does_not_know_is_named():
    with pytest.raises(DataError, match="sample 1 holds the token id 9, and the model of the scor"):
        published(
            tiny_id_scorer(), samples_of([[3, 4], [3, 9]]), train_char_tokenizer(["abcdefgh"]),
            batch_size=2,
        )  # fmt: skip
