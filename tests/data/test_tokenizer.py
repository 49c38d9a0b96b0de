import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.data.tokenizer import TextTokenizer, train_char_tokenizer
from pipeline.errors import DataError

any_text = st.text(st.characters(exclude_categories=["Cs"]))
texts_with_letters = st.lists(any_text, min_size=1).filter(any)


@pytest.fixture
def tokenizer():
    return train_char_tokenizer(["ba\n", "d c"])


def test_specials_come_first_then_characters_sorted(tokenizer):
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.encode("\n abcd") == [3, 4, 5, 6, 7, 8]
    assert tokenizer.size == 9


@given(texts=texts_with_letters)
def test_every_training_text_comes_back(texts):
    tokenizer = train_char_tokenizer(texts)
    for text in texts:
        ids = tokenizer.encode_known(text)
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, tokenizer.eos_id, tokenizer.pad_id, *ids]) == text
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@given(texts=texts_with_letters, other=any_text)
def test_unknown_characters_are_found(texts, other):
    tokenizer = train_char_tokenizer(texts)
    known = set("".join(texts))
    strange = [character for character in other if character not in known]
    assert tokenizer.unknown(other) == strange
    assert tokenizer.encode(other).count(tokenizer.unk_id) == len(strange)


@settings(max_examples=20)
@given(texts=texts_with_letters)
def test_transformers_loads_it_and_agrees(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("tokenizer")
    ours = train_char_tokenizer(texts)
    ours.save(folder)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    assert (theirs.pad_token, theirs.eos_token, theirs.unk_token) == ("<pad>", "<eos>", "<unk>")
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)
    assert theirs.mask_token is None
    assert len(theirs) == ours.size
    for text in texts:
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text


def test_special_token_spelled_in_a_text_is_text(tmp_path):
    tokenizer = train_char_tokenizer(["<eos><pad> cats"])
    tokenizer.save(tmp_path)
    for each in (tokenizer, TextTokenizer.load(tmp_path)):
        assert len(each.encode("a<eos>")) == 6
        assert each.decode(each.encode("a<eos>")) == "a<eos>"
    assert len(AutoTokenizer.from_pretrained(tmp_path)("a<eos>")["input_ids"]) == 6


def test_same_characters_same_bytes(tmp_path):
    one, two = train_char_tokenizer(["abc", "zoë"]), train_char_tokenizer(iter(["ëoz", "cab"]))
    one.save(tmp_path / "one")
    two.save(tmp_path / "two")
    TextTokenizer.load(tmp_path / "one").save(tmp_path / "three")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        contents = {(tmp_path / folder / name).read_bytes() for folder in ("one", "two", "three")}
        assert len(contents) == 1
    assert one.sha256 == two.sha256 == TextTokenizer.load(tmp_path / "three").sha256
    assert one.sha256 != train_char_tokenizer(["abd", "zoë"]).sha256


def test_decode_stops_at_eos_and_shows_malformed_text(tokenizer):
    assert tokenizer.decode([5, 0, 6, 2, 1, 7]) == "a<pad>b<unk>"
    assert tokenizer.decode([1, 5]) == tokenizer.decode([]) == ""
    assert tokenizer.decode_all([5, 1, 0, 6]) == "a<eos><pad>b"


def test_an_unknown_character_is_one_character(tokenizer):
    ids = [*tokenizer.encode("é"), *tokenizer.encode("é"), tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.num_chars(ids, "pad") == 2 + 1
    assert tokenizer.num_chars(ids[2:], "pad") == 1
    assert tokenizer.num_chars(ids[:3], "concat") == 2 + 1
    assert tokenizer.num_bytes(ids, "pad") == tokenizer.num_bytes(ids[:3], "concat") == 2
    assert tokenizer.num_bytes(ids[2:], "pad") == 0


def test_all_of_a_window_is_its_text(tokenizer):
    assert tokenizer.decode([6, 1, 5, 1, 7], "concat") == "b<eos>a<eos>c"
    assert not tokenizer.is_invalid_utf8([6, 1, 5], "concat")


def test_show_has_one_glyph_a_position(tokenizer):
    assert tokenizer.show([9, 5, 4, 3, 2, 1, 0]) == "░a ␊�⏎·"


@pytest.mark.parametrize("id", [-1, 9, 1000])
def test_ids_of_no_token_are_refused(tokenizer, id):
    with pytest.raises(ValueError, match=f"{id} is no id"):
        tokenizer.decode([5, id])


def test_encode_known_names_each_unknown_character_once(tokenizer):
    with pytest.raises(DataError, match="does not know 'é', '👩' \\(in"):
        tokenizer.encode_known("aébé👩")


def test_half_a_surrogate_pair_is_no_text(tokenizer):
    for call in (tokenizer.encode, tokenizer.encode_known, tokenizer.unknown):
        with pytest.raises(DataError, match="not valid Unicode"):
            call("a\ud800")


def test_nothing_to_learn_from():
    with pytest.raises(DataError, match="every document is empty"):
        train_char_tokenizer(["", ""])


def test_missing_tokenizer(tmp_path):
    with pytest.raises(DataError, match=r"tokenizer\.json is missing: no tokenizer in"):
        TextTokenizer.load(tmp_path)


def test_damaged_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    definition = (tmp_path / "tokenizer.json").read_text()
    for damaged in (definition[:100], "{}", "\0", json.dumps({"version": "1.0"})):
        (tmp_path / "tokenizer.json").write_text(damaged)
        with pytest.raises(DataError, match="is damaged"):
            TextTokenizer.load(tmp_path)


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"pad_token": "<pad>", "eos_token": "</s>"}'])
def test_damaged_tokenizer_config(tokenizer, tmp_path, config):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(DataError, match="is damaged"):
        TextTokenizer.load(tmp_path)


def test_special_token_that_is_not_there(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "</s>"}))
    with pytest.raises(DataError, match="no token '</s>'"):
        TextTokenizer.load(tmp_path)


PARTS = {
    "truncation": {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    },
    "padding": {
        "strategy": {"Fixed": 2**62},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    },
    "normalizer": {"type": "Lowercase"},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
}


@pytest.mark.parametrize("part", PARTS)
def test_what_changes_a_text_beside_encoding_it_is_refused(tokenizer, tmp_path, part):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: PARTS[part]}))
    with pytest.raises(DataError, match=f"tokenizer.json has {part}, which would change a text"):
        TextTokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["pad", "eos", "unk"])
@pytest.mark.parametrize("token", [None, 5, [], {}])
def test_a_special_token_that_is_no_text(tokenizer, tmp_path, name, token):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {f"{name}_token": token}))
    if (name, token) == ("unk", None):
        assert TextTokenizer.load(tmp_path).unk_id is None
    else:
        with pytest.raises(DataError, match=f"{name}_token must be a text"):
            TextTokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_files_that_are_none(tokenizer, tmp_path, name):
    tokenizer.save(tmp_path)
    path = tmp_path / name
    path.unlink()
    for make in (Path.mkdir, os.mkfifo, lambda it: it.symlink_to("/dev/zero")):
        make(path)
        with pytest.raises(DataError, match=f"{name} is missing"):
            TextTokenizer.load(tmp_path)
        path.rmdir() if path.is_dir() else path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match=r"no tokenizer has 1,099,511,627,776 bytes"):
        TextTokenizer.load(tmp_path)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="is damaged"):
        TextTokenizer.load(tmp_path)
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match="is damaged"):
        TextTokenizer.load(tmp_path)
