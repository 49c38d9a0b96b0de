"""The fast ways give the ids of the tokenizers library."""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_files import SHARED_GPT2, write_byte_level

from pipeline.data.byte_level import byte_level, train_bpe_tokenizer
from pipeline.data.corpus import read_documents
from pipeline.data.encoding import PART, Encoder
from pipeline.data.gpt2 import read_gpt2_tokenizer
from pipeline.data.tokenizer import EOS, PAD, TextTokenizer, train_char_tokenizer
from pipeline.errors import DataError

WEBTEXT = SHARED_GPT2.parent / "webtext" / "train.parquet"
ENGLISH = ["It's the cat's; they'll see what we've said, he'd say: I'm 'there'.", "2,024 naïve\n\n"]

any_text = st.text(st.characters(exclude_categories=["Cs"]))
pieces = st.lists(
    st.one_of(
        any_text,
        st.sampled_from([*ENGLISH, "<|endoftext|>", "<eos>", "'s", "'S", "ſ", "İ", "日本語"]),
        st.text(" \n\r\t\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000\u180e\u200b\ufeff", max_size=9),
        st.text("0123456789²½Ⅷ٣", max_size=5),
    ),
    max_size=8,
)
odd_text = pieces.map("".join)


@pytest.fixture(scope="module")
def trained():
    return train_bpe_tokenizer([*ENGLISH, "the then there other their", "日本語 naïve"] * 3, 500)


@pytest.fixture(scope="module")
def gpt2():
    if not SHARED_GPT2.is_dir():
        pytest.skip("needs GPT-2's tokenizer in ../shared/data/gpt2")
    return read_gpt2_tokenizer(SHARED_GPT2)


def check(tokenizer, texts):
    ids, lengths = Encoder(tokenizer).encode(texts)
    expected = tokenizer.encode_batch(texts)
    assert lengths.tolist() == [len(each) for each in expected]
    assert ids.tolist() == [id for each in expected for id in each]


@settings(max_examples=300)
@given(text=odd_text)
def test_a_trained_vocabulary_gets_the_same_ids(trained, text):
    encoder = Encoder(trained)
    assert encoder.uses_tiktoken
    assert encoder.encode([text])[0].tolist() == trained.encode(text)


def test_gpt2s_gets_the_same_ids(gpt2):
    encoder = Encoder(gpt2)
    assert encoder.uses_tiktoken

    @settings(max_examples=300)
    @given(text=odd_text)
    def same(text):
        assert encoder.encode([text])[0].tolist() == gpt2.encode(text)

    same()


def test_every_character_is_split_alike(trained):
    """Both know the same letters, numbers and spaces, so the same version of Unicode."""
    known = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    characters = [c for c in known if c.isprintable() or c.isspace()]
    check(trained, ["".join(f"a{c}1 {c}." for c in characters[i::500]) for i in range(500)])


def test_web_text_gets_the_same_ids(gpt2):
    if not WEBTEXT.is_file():
        pytest.skip("needs web text in ../shared/data/webtext")
    texts = list(read_documents(WEBTEXT, "text"))[::40]
    assert sum(map(len, texts)) > 500_000
    check(gpt2, texts)


def test_texts_one_after_another(trained):
    ids, lengths = Encoder(trained).encode(["the", "", "é"])
    assert lengths[1] == 0
    assert ids.tolist() == trained.encode("the") + trained.encode("é")


def test_the_end_of_text_spelled_in_a_text_is_text(gpt2):
    ids, _ = Encoder(gpt2).encode(["a<|endoftext|>b"])
    assert gpt2.eos_id not in ids
    assert gpt2.decode(ids) == "a<|endoftext|>b"


@pytest.mark.parametrize("run", [" " * 3_000_000 + "x", "a" * 200_000, "\n" * 1_500_000])
def test_very_long_runs(trained, run):
    check(trained, [run])


def test_a_word_too_long_for_memory_is_refused(trained, monkeypatch):
    monkeypatch.setattr("pipeline.data.encoding.MOST_UNCUT", 50)
    monkeypatch.setattr("pipeline.data.encoding.PART", 10)
    check(trained, ["the cat " * 50, "a" * 60])
    with pytest.raises(DataError, match="in which no word ends"):
        Encoder(trained).encode(["the cat", "a" * 61])


CHARACTERS = train_char_tokenizer(["abc <pad>eos\n", "日本語👩"])


@given(texts=st.lists(odd_text, min_size=1))
def test_characters_get_the_same_ids(texts):
    assert not Encoder(CHARACTERS).uses_tiktoken
    check(CHARACTERS, texts)


@settings(max_examples=300)
@given(text=odd_text)
@pytest.mark.parametrize("kind", ["char", "bpe", "other"])
def test_parts_of_a_text_have_its_ids(trained, kind, text):
    tokenizer = {"char": CHARACTERS, "bpe": trained}.get(kind) or bpe([("a", "b")] * 2)
    encoder = Encoder(tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.data.encoding.PART", 3)
        parts, ends = zip(*encoder.parts(text), strict=True)
    assert "".join(parts) == text
    assert ends == (False,) * (len(parts) - 1) + (True,)
    assert encoder.encode(parts)[0].tolist() == tokenizer.encode(text)


def test_long_texts_are_cut(trained):
    text = "the cat sat on the mat\n" * 50_000
    lengths = [len(part) for part, _ in Encoder(trained).parts(text)]
    assert len(lengths) == 5
    assert max(lengths) < PART + 5


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_half_a_surrogate_pair_is_no_text(trained, kind):
    tokenizer = trained if kind == "bpe" else train_char_tokenizer(["abc"])
    with pytest.raises(DataError, match="not valid Unicode"):
        Encoder(tokenizer).encode(["ab", "a\ud800"])


def bpe(merges, ids=None):
    """A tokenizer of the bytes and `merges`, ids in their order unless given."""
    alphabet = json.loads(train_bpe_tokenizer(["a"], 258).definition)["model"]["vocab"]
    merged = [first + second for first, second in merges]
    vocab = alphabet | dict(zip(merged, ids or range(258, 258 + len(merged)), strict=True))
    tokenizer = byte_level(vocab, merges)
    tokenizer.add_special_tokens([PAD, EOS])
    return TextTokenizer(tokenizer.to_str(), pad=PAD, eos=EOS, unk=None)


def test_merges_in_the_order_of_their_ids_are_proved():
    tokenizer = bpe([("b", "c"), ("a", "bc")])
    assert Encoder(tokenizer).uses_tiktoken
    check(tokenizer, ["abc", "bcabcc"])


def test_ids_in_another_order_are_left_to_the_tokenizers_library():
    tokenizer = bpe([("b", "c"), ("a", "b")], ids=[259, 258])
    assert not Encoder(tokenizer).uses_tiktoken
    check(tokenizer, ["abc"])


def test_a_token_that_its_merges_never_make_is_left_to_the_tokenizers_library():
    """tiktoken would join ab and c, which are no pair of the list."""
    tokenizer = bpe([("a", "b"), ("b", "c"), ("a", "bc")])
    assert len(tokenizer.encode("abc")) == 2
    assert not Encoder(tokenizer).uses_tiktoken
    check(tokenizer, ["abc", "xabc bc ab"])


def test_merges_of_any_two_bytes_are_proved(tmp_path):
    tokenizer = read_gpt2_tokenizer(write_byte_level(tmp_path, num_merges=3000))
    assert Encoder(tokenizer).uses_tiktoken
    check(tokenizer, [*ENGLISH, "!!AB#$", "日本語"])
