"""Scoring by a model that has the samples' own tokenizer: ids in, no text in between."""

import json

import numpy as np
import pytest
import torch
from reference_files import SHARED_GPT2, write_byte_level
from tiny_scorers import plain_nats, samples_of, tiny_model
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.data.gpt2 import read_gpt2_tokenizer
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.evaluation.gen_ppl import likelihood
from pipeline.evaluation.scorer import encoding_of, load_scorer

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """A byte-level language model as a user has it: written by transformers."""
    path = write_byte_level(tmp_path / "plain", num_merges=40)
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(path / "tokenizer.json"),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
    )
    fast.save_pretrained(tmp_path / "lm")
    tiny_model(297, 16).save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


@pytest.fixture
def tokenizer(tmp_path, folder):
    return read_gpt2_tokenizer(tmp_path / "plain")


def scored(folder, tokenizer, samples):
    scorer = load_scorer(
        str(folder),
        baseline=folder,
        tokenizer=tokenizer.definition,
        start_id=tokenizer.eos_id,
        device=CPU,
        precision="float32",
    )
    found = likelihood(scorer, samples, eos_id=tokenizer.eos_id, batch_size=3)
    return scorer, found


def test_invalid_utf8_gets_the_models_own_likelihood_of_its_ids(folder, tokenizer):
    eos = tokenizer.eos_id
    rows = [
        tokenizer.encode("né")[:-1],  # a character cut in half
        [*tokenizer.encode("👩")[2:], *tokenizer.encode("abc")],
        # A segmentation that `encode` would not choose: two tokens that merge into one.
        [*tokenizer.encode("!"), *tokenizer.encode("!")],
        [],
    ]
    assert [tokenizer.is_invalid_utf8(row) for row in rows] == [True, True, False, False]
    assert tokenizer.encode(tokenizer.decode(rows[2])) != rows[2]
    ids = [[*row, *[eos] * (8 - len(row))] for row in rows]
    samples = samples_of(ids, [tokenizer.decode(row) for row in ids])
    scorer, found = scored(folder, tokenizer, samples)
    assert (scorer.tokenizer, scorer.start_id) == (None, eos)
    assert found.num_tokens.tolist() == [len(row) + 1 for row in rows]
    expected = [plain_nats(tiny_model(297, 16), [eos], [*row, eos]) for row in rows]
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)


def test_another_vocabulary_reads_the_text(folder, tokenizer, tmp_path):
    other = read_gpt2_tokenizer(write_byte_level(tmp_path / "other", num_merges=41))
    text = "né!!"
    samples = samples_of([other.encode(text)], [text])
    scorer, found = scored(folder, other, samples)
    own = tokenizer.encode(text)
    assert scorer.tokenizer is not None
    assert found.num_tokens.tolist() == [len(own)]
    expected = plain_nats(tiny_model(297, 16), [tokenizer.eos_id], own)
    assert found.nats[0] == pytest.approx(expected, rel=1e-5)


def with_part(definition, change):
    parts = json.loads(definition)
    change(parts)
    return json.dumps(parts)


def swap_merges(parts):
    merges = parts["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def swap_ids(parts):
    vocab = parts["model"]["vocab"]
    vocab["!"], vocab["A"] = vocab["A"], vocab["!"]


@pytest.mark.parametrize(
    "change",
    [
        swap_merges,
        swap_ids,
        lambda parts: parts["pre_tokenizer"].update(add_prefix_space=True),
        lambda parts: parts.update(normalizer={"type": "Lowercase"}),
        lambda parts: parts["added_tokens"].clear(),
    ],
)
def test_what_decides_ids_tells_tokenizers_apart(tokenizer, change):
    definition = with_part(tokenizer.definition, change)
    assert encoding_of(definition) != encoding_of(tokenizer.definition)


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts["pre_tokenizer"].update(trim_offsets=False),
        lambda parts: parts["model"].update(continuing_subword_prefix=""),
        lambda parts: parts.update(
            post_processor={
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": False,
                "use_regex": True,
            }
        ),
        lambda parts: parts["model"].update(
            merges=[" ".join(pair) for pair in parts["model"]["merges"]]
        ),
    ],
)
def test_what_does_not_decide_ids_does_not(tokenizer, change):
    definition = with_part(tokenizer.definition, change)
    assert encoding_of(definition) == encoding_of(tokenizer.definition)


def test_tokenizers_of_characters():
    one, other = (train_char_tokenizer([text]).definition for text in ("abc", "abd"))
    assert encoding_of(one) == encoding_of(one)
    assert encoding_of(one) != encoding_of(other)


@pytest.mark.skipif(not SHARED_GPT2.is_dir(), reason="needs GPT-2's tokenizer in ../shared")
def test_gpt2_as_transformers_has_it_is_ours():
    ours = read_gpt2_tokenizer(SHARED_GPT2).definition
    theirs = AutoTokenizer.from_pretrained(SHARED_GPT2).backend_tokenizer.to_str()
    assert theirs != ours
    assert encoding_of(theirs) == encoding_of(ours)
