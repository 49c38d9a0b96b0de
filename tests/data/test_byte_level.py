import hashlib
import json
import os
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipeline.data.byte_level import BETWEEN_WORDS, LONGEST_WORD, pieces, train_bpe_tokenizer
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import DataError

TEXTS = ["the cat sat on the mat", "the hat, the bat", "<eos><pad> é👩"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe_tokenizer(TEXTS, 300)


def test_ids(tokenizer):
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, None)
    assert 258 < tokenizer.size <= 300
    vocab = json.loads(tokenizer.definition)["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(tokenizer.size))
    assert len(tokenizer.encode(" the")) == 1


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_and_holds_no_special_token(tokenizer, text):
    for given_text in (text, f"<eos>{text}<pad>"):
        ids = tokenizer.encode_known(given_text)
        assert tokenizer.decode(ids) == given_text
        assert not {tokenizer.pad_id, tokenizer.eos_id} & set(ids)
        assert tokenizer.num_chars(ids, "concat") == len(given_text)
        windows = (ids[:3], [tokenizer.eos_id, *ids[3:]])
        num_bytes = sum(tokenizer.num_bytes(window, "concat") for window in windows)
        assert num_bytes == len(given_text.encode())


def test_special_tokens_spelled_in_the_training_texts_are_text():
    tokenizer = train_bpe_tokenizer(["<eos>", "x<eos>", "<pad>"] * 50, 400)
    assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
    assert tokenizer.decode_all(tokenizer.encode("<eos><pad>")) == "<eos><pad>"
    assert not {0, 1} & set(tokenizer.encode("<eos><pad>"))


def test_no_more_merges_than_pairs_that_occur_twice():
    assert train_bpe_tokenizer(["ab", "ab", "cd"], 16384).size == 259
    assert train_bpe_tokenizer(["", ""], 16384).size == 258


def test_long_texts_are_learned_from_in_pieces(monkeypatch):
    texts = ["the cat sat on the mat. " * 9, "ab"]
    whole = train_bpe_tokenizer(texts, 300).definition
    monkeypatch.setattr("pipeline.data.byte_level.PART", 10)
    cut = list(pieces(texts, BETWEEN_WORDS, 10))
    assert "".join(cut) == "".join(texts)
    assert max(map(len, cut)) < 20
    assert train_bpe_tokenizer(texts, 300).definition == whole
    monkeypatch.setattr("pipeline.data.byte_level.MOST_UNCUT", 50)
    assert max(map(len, pieces(["x" * 50], BETWEEN_WORDS, 10, 50))) == 20
    with pytest.raises(DataError, match="a document has more than 50 characters in which no word"):
        train_bpe_tokenizer(["ab", "x" * 90], 300)


@pytest.mark.parametrize("letters", ["a", " ", "=", "ACGT", "甲乙丙丁"])
def test_a_word_without_end_is_learned_from_in_seconds(letters):
    text = "".join(random.Random(0).choices(letters, k=150_000))
    started = time.monotonic()
    tokenizer = train_bpe_tokenizer([text], 1000)
    assert time.monotonic() - started < 5
    assert tokenizer.decode_all(tokenizer.encode(text)) == text


def test_words_that_people_write_are_learned_from_whole():
    word = "".join(random.Random(0).choices("abcdefgh", k=LONGEST_WORD - 1))
    tokenizer = train_bpe_tokenizer([f"{word} {word} {word}"], 1000)
    assert len(tokenizer.encode(f" {word}")) == 1


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = TextTokenizer.load(tmp_path)
    assert (loaded.sha256, loaded.unk_id) == (tokenizer.sha256, None)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("the <eos> hat")["input_ids"] == tokenizer.encode("the <eos> hat")


TRAIN = """
import random
from pipeline.data.byte_level import train_bpe_tokenizer
source = random.Random(0)
words = ["".join(source.choices("abcdefgh", k=source.randint(1, 9))) for _ in range(3000)]
print(train_bpe_tokenizer((" ".join(words[i:i+9]) for i in range(3000)), 2000).sha256)
"""


def test_the_same_texts_give_the_same_bytes_on_any_number_of_threads():
    found = {
        subprocess.run(
            [sys.executable, "-c", TRAIN],
            env=os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for threads in ("1", "2", "5")
    }
    [sha256] = found
    assert len(sha256) == len(hashlib.sha256().hexdigest())


def test_texts_are_read_once_as_they_are_needed():
    texts = iter(["ab", "ab"])
    assert train_bpe_tokenizer(texts, 300).size == 259
    assert next(texts, None) is None


def test_half_a_surrogate_pair_is_no_text():
    with pytest.raises(DataError, match="not valid Unicode"):
        train_bpe_tokenizer(["a\ud800"], 300)
