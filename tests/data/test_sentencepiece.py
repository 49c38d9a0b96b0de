import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tiny_project import PROJECT
from transformers import AutoTokenizer

from pipeline.config.data import SentencePiece
from pipeline.data import sentencepiece
from pipeline.data.encoding import Encoder
from pipeline.data.sentencepiece import sentencepiece_tokenizer, train_sentencepiece
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import DataError

KINDS = ["bpe", "unigram"]
TEXTS = [
    "the cat sat on the mat in 1984, and 12 cats sat on 3 mats",
    "<s> and </s>, <pad> and <unk>: <0x41> is spelled so, and s> and pad> too",
    "two  spaces, ▁ and\na line that ends; the cat that sat there ends it",
    "Zoë the cat and the other cats: naïve, that is",
] * 3
any_text = st.text(st.characters(exclude_categories=["Cs"]))
# Words of the training texts, so that pieces longer than a character come up.
near_text = st.lists(
    st.sampled_from([word for text in TEXTS for word in text.split(" ")]) | any_text
).map(" ".join)


def params(model_type, **ids):
    return SentencePiece(model_type=model_type, **({"bos": 0, "eos": 1, "pad": 2, "unk": 3} | ids))


def train(model_type, texts=TEXTS, vocab_size=308, **ids):
    return train_sentencepiece(texts, vocab_size, params(model_type, **ids))


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    """A .model, and the tokenizer of it."""
    model = train(request.param)
    return model, sentencepiece_tokenizer(model, request.param)


@given(text=near_text | any_text)
def test_every_text_comes_back(trained, text):
    tokenizer = trained[1]
    ids = tokenizer.encode_known(text)
    assert tokenizer.decode([*ids, tokenizer.eos_id, tokenizer.pad_id, *ids]) == text
    assert tokenizer.decode_all(ids) == text
    assert tokenizer.num_chars([*ids, tokenizer.eos_id], "pad") == len(text) + 1
    assert tokenizer.num_chars([*ids, tokenizer.eos_id], "concat") == len(text) + 1
    assert tokenizer.num_bytes([*ids, tokenizer.eos_id], "concat") == len(text.encode())
    assert not tokenizer.is_invalid_utf8(ids)
    assert tokenizer.special_ids == {0, 1, 2, 3}
    assert not tokenizer.special_ids & set(ids)
    assert tokenizer.unknown(text) == []
    arrays, lengths = Encoder(tokenizer).encode([text, text])
    assert (arrays.tolist(), lengths.tolist()) == (ids * 2, [len(ids)] * 2)


@given(text=near_text.filter(lambda text: "▁" not in text and "<" not in text))
def test_ids_are_the_librarys(trained, text):
    model, tokenizer = trained
    theirs = SentencePieceProcessor(model_proto=model)
    ids = tokenizer.encode(text)
    if ids != theirs.encode(text):  # another way, as good
        ways = (sum(map(theirs.get_score, way)) for way in (ids, theirs.encode(text)))
        assert next(ways) == pytest.approx(next(ways), abs=1e-4)


def test_digits_are_alone_and_what_is_no_piece_is_bytes(trained):
    tokenizer = trained[1]
    pieces = [tokenizer.decode_all([id]) for id in tokenizer.encode("in 1984")]
    assert pieces[-4:] == ["1", "9", "8", "4"]
    assert [tokenizer.decode_all([id]) for id in tokenizer.encode("567")] == ["5", "6", "7"]
    learned = [tokenizer.decode_all([id]) for id in range(4 + 10 + 256, tokenizer.size)]
    assert not [piece for piece in learned if any(map(str.isdigit, piece))]
    assert max(map(len, learned)) > 1
    assert len(tokenizer.encode("👩")) == 4


def test_a_character_in_parts_is_shown(trained):
    tokenizer = trained[1]
    ids = tokenizer.encode("a👩b")
    assert tokenizer.decode(ids[:3]) == "a��"
    assert tokenizer.is_invalid_utf8(ids[:3])
    assert tokenizer.num_chars(ids[:3], "concat") == 2
    shown = tokenizer.show([tokenizer.size, *ids, 3, 1, 2, 0])
    assert shown == "░a👩b�⏎·<s>"


@pytest.mark.parametrize("model_type", KINDS)
def test_ids_are_those_given(model_type, tmp_path):
    given = {"bos": 7, "eos": 300, "pad": 0, "unk": 20}
    model = train(model_type, **given)
    tokenizer = sentencepiece_tokenizer(model, model_type)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 300, 20)
    assert tokenizer.size == 308
    assert tokenizer.decode_all([7, 300, 0, 20]) == "<s></s><pad><unk>"
    assert tokenizer.decode(tokenizer.encode(TEXTS[1])) == TEXTS[1]
    theirs = SentencePieceProcessor(model_proto=model)
    assert (theirs.bos_id(), theirs.eos_id(), theirs.pad_id(), theirs.unk_id()) == (7, 300, 0, 20)


def test_it_is_saved_in_files_that_transformers_loads(trained, tmp_path):
    _, tokenizer = trained
    tokenizer.save(tmp_path)
    again, theirs = TextTokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.sha256 == tokenizer.sha256
    assert again.sha256 == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (2, 1, 3)
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text) == theirs(text)["input_ids"]
        assert theirs.decode(tokenizer.encode(text)) == text


ON_ONE_CORE = """
import hashlib, json, os, sys
from pipeline.config.data import SentencePiece
from pipeline.data.sentencepiece import train_sentencepiece
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
for kind in ("bpe", "unigram"):
    params = SentencePiece(model_type=kind, bos=0, eos=1, pad=2, unk=3)
    print(hashlib.sha256(train_sentencepiece(json.loads(sys.argv[1]), 308, params)).hexdigest())
"""


def test_the_same_texts_give_the_same_bytes_on_any_number_of_cores():
    done = subprocess.run(
        [sys.executable, "-c", ON_ONE_CORE, json.dumps(TEXTS)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [hashlib.sha256(train(kind, iter(TEXTS))).hexdigest() for kind in KINDS]
    assert (done.stdout.split(), done.stderr) == (here, "")


@pytest.mark.parametrize("model_type", KINDS)
def test_long_texts_are_learned_from_in_pieces(model_type, monkeypatch):
    texts = ["  ".join(TEXTS), "ab"]
    whole = train(model_type, texts)
    monkeypatch.setattr(sentencepiece, "PART", 40)
    pieces = list(sentencepiece.pieces([*texts, "x" * 200], sentencepiece.BEFORE_WORD, 40))
    assert "".join(pieces) == "".join([*texts, "x" * 200])
    assert len(pieces) > 20
    assert max(map(len, pieces)) <= 80
    if model_type == "bpe":  # a unigram may count a word's end that is a cut's
        assert train(model_type, texts) == whole


@pytest.mark.parametrize("letters", ["a", " ", "a ", "ACGT"])
def test_a_text_that_repeats_itself_is_learned_from_in_seconds(letters):
    started = time.monotonic()
    with suppress(DataError):  # the texts allow fewer pieces
        train("unigram", ["the cat", letters * (150_000 // len(letters))], 290)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("model_type", KINDS)
def test_a_vocabulary_of_another_size_than_the_texts_allow(model_type, capfd):
    for asked, word in ((16384, "most"), (270, "least")):
        with pytest.raises(DataError) as error:
            train(model_type, vocab_size=asked)
        [line] = error.value.args
        assert line.startswith(f"tokenizer.vocab_size must be at {word} ")
        assert line.endswith(f"(got {asked})")
        possible = int(line.split(f"at {word} ")[1].split(":")[0].split(",")[0])
        size = sentencepiece_tokenizer(train(model_type, vocab_size=possible), model_type).size
        assert size == possible
    assert capfd.readouterr() == ("", "")


@settings(max_examples=30)
@given(texts=st.lists(any_text, max_size=5), model_type=st.sampled_from(KINDS))
def test_texts_of_any_kind_are_learned_or_refused_in_a_line(texts, model_type):
    try:
        model = train(model_type, texts, vocab_size=300)
    except DataError as error:
        [line] = error.args
        assert line.startswith(("tokenizer.vocab_size must be at ", "no characters to learn"))
    else:
        tokenizer = sentencepiece_tokenizer(model, model_type)
        assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


@pytest.mark.parametrize(
    ("model_type", "texts"),
    [("bpe", []), ("bpe", ["", ""]), ("bpe", ["\n"]), ("unigram", ["0"]), ("unigram", ["12", "3"])],
)
def test_nothing_to_learn_from(model_type, texts):
    with pytest.raises(DataError, match="every document is empty, or digits alone"):
        train(model_type, texts, vocab_size=300)


@pytest.mark.parametrize("error", [DataError("line 3 is bad"), KeyboardInterrupt()])
def test_what_ends_the_texts_comes_through(error):
    def texts():
        yield from TEXTS
        raise error

    with pytest.raises(type(error)) as raised:
        train("bpe", texts())
    assert raised.value is error
