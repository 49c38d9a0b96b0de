import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_files import SHARED_GPT2, write_byte_level
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from pipeline.data.gpt2 import fetch_gpt2_tokenizer, is_gpt2, read_gpt2_tokenizer, read_tokenizer
from pipeline.data.packed import Packed
from pipeline.data.packing import pack
from pipeline.data.token_bytes import BYTES
from pipeline.data.tokenizer import TextTokenizer, train_char_tokenizer
from pipeline.errors import DataError, PipelineError

any_text = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_byte_level(tmp_path_factory.mktemp("byte_level"), num_merges=60)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return read_gpt2_tokenizer(folder)


@pytest.fixture(scope="module")
def gpt2():
    if not SHARED_GPT2.is_dir():
        pytest.skip("needs GPT-2's tokenizer in ../shared/data/gpt2")
    return read_gpt2_tokenizer(SHARED_GPT2)


def test_ids(tokenizer):
    assert tokenizer.size == 256 + 60 + 1
    assert tokenizer.pad_id == tokenizer.eos_id == 316
    assert tokenizer.unk_id is None


def test_ids_of_gpt2_itself(gpt2):
    assert (gpt2.size, gpt2.pad_id, gpt2.eos_id, gpt2.unk_id) == (50257, 50256, 50256, None)
    assert gpt2.encode("Hello world") == [15496, 995]
    theirs = AutoTokenizer.from_pretrained(SHARED_GPT2)
    for text in (" naïve\n\n", "don't  stop", "2,024 x=1;\t", "日本語 👩‍🔬"):
        assert gpt2.encode(text) == theirs(text)["input_ids"]


def test_gpt2s_own_vocabulary_is_told_from_others(gpt2, tokenizer, tmp_path):
    assert is_gpt2(gpt2)
    assert not is_gpt2(tokenizer)
    assert not is_gpt2(read_gpt2_tokenizer(write_byte_level(tmp_path, num_merges=50_000)))
    assert not is_gpt2(train_char_tokenizer(["abc"]))


@given(text=any_text)
def test_every_byte_of_a_text_is_in_its_ids(tokenizer, text):
    lengths = tokenizer.byte_lengths()
    assert sum(lengths[id] for id in tokenizer.encode(text)) == len(text.encode())
    assert lengths[tokenizer.eos_id] == 0


@given(text=any_text)
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer.encode_known(text)
    end = [tokenizer.eos_id, tokenizer.eos_id]
    assert tokenizer.num_chars([*ids, *end], "pad") == len(text) + 1
    assert tokenizer.num_chars([*ids, *end], "concat") == len(text) + 2
    assert tokenizer.unknown(text) == []
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_id, *ids]) == text
    assert not tokenizer.is_invalid_utf8(ids)
    assert tokenizer.show(ids) == text.translate(
        {code: 0x2400 + code for code in range(32)}
        | {127: 0x2421}
        | dict.fromkeys([*range(128, 160), 0x2028, 0x2029], 0x2426)
    )


def test_the_end_of_text_spelled_in_a_text_is_text(tokenizer):
    text = "a<|endoftext|>b"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_half_a_surrogate_pair_is_no_text(tokenizer):
    for call in (tokenizer.encode, tokenizer.encode_known, tokenizer.unknown):
        with pytest.raises(DataError, match="not valid Unicode"):
            call("a\ud800")


def test_the_bytes_of_characters_are_the_librarys():
    assert set(BYTES) == set(ByteLevel.alphabet())
    assert sorted(BYTES.values()) == list(range(256))
    for byte, character in ((0x20, "Ġ"), (0x0A, "Ċ"), (0x41, "A"), (0xAD, "Ń"), (0x7F, "ġ")):
        assert BYTES[character] == byte


@settings(max_examples=300)
@given(content=st.binary(max_size=12))
def test_bytes_that_are_no_utf8_are_replaced_and_told(tokenizer, content):
    characters = {byte: character for character, byte in BYTES.items()}
    vocabulary = json.loads(tokenizer.definition)["model"]["vocab"]
    ids = [vocabulary[characters[byte]] for byte in content]
    assert tokenizer.decode(ids) == content.decode(errors="replace")
    try:
        content.decode()
    except UnicodeDecodeError:
        assert tokenizer.is_invalid_utf8(ids)
        assert tokenizer.is_invalid_utf8([*ids, tokenizer.eos_id])
    else:
        assert not tokenizer.is_invalid_utf8(ids)
    assert not tokenizer.is_invalid_utf8([tokenizer.eos_id, *ids])


def test_a_replacement_character_of_the_text_is_no_invalid_byte(tokenizer):
    assert not tokenizer.is_invalid_utf8(tokenizer.encode("a�b"))


def test_characters_are_never_invalid():
    tokenizer = train_char_tokenizer(["ab�"])
    assert not tokenizer.is_invalid_utf8([*tokenizer.encode("a�"), tokenizer.unk_id])


def test_show(gpt2):
    ids = gpt2.encode("é 👩")
    assert gpt2.show([*ids, gpt2.size, gpt2.eos_id, gpt2.pad_id]) == "é 👩░⏎⏎"
    # Half a character before a mask: its other half cannot be there.
    assert gpt2.show([ids[-2], gpt2.size, ids[-1]]) == " �░�"


def test_saved_loaded_and_read_again_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "one")
    loaded = TextTokenizer.load(tmp_path / "one")
    assert (loaded.sha256, loaded.unk_id) == (tokenizer.sha256, None)
    assert read_tokenizer(tmp_path / "one").sha256 == tokenizer.sha256
    theirs = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert theirs("a<|endoftext|>")["input_ids"] == tokenizer.encode("a<|endoftext|>")
    assert theirs.pad_token_id == theirs.eos_token_id == tokenizer.eos_id
    theirs.save_pretrained(tmp_path / "two")
    assert read_tokenizer(tmp_path / "two").sha256 == tokenizer.sha256


def test_files_that_encode_alike_have_one_hash(gpt2, tmp_path):
    """GPT-2's file as it is, and as transformers writes it."""
    AutoTokenizer.from_pretrained(SHARED_GPT2).save_pretrained(tmp_path)
    written, given = (path.read_text() for path in (tmp_path / "tokenizer.json", original()))
    assert written != given
    assert read_gpt2_tokenizer(tmp_path).sha256 == gpt2.sha256
    # Merges as strings, as the file on the hub has them.
    parts = json.loads(given)
    parts["model"]["merges"] = [" ".join(pair) for pair in parts["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(parts))
    assert read_gpt2_tokenizer(tmp_path).sha256 == gpt2.sha256


def original():
    return SHARED_GPT2 / "tokenizer.json"


def edited(folder, tmp_path, **changes):
    parts = json.loads((folder / "tokenizer.json").read_text())
    for key, value in changes.items():
        *sections, leaf = key.split("__")
        part = parts
        for name in sections:
            part = part[name]
        part[leaf] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(parts))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "its normalizer is another"),
        ({"pre_tokenizer__add_prefix_space": True}, "its pre_tokenizer is another"),
        ({"pre_tokenizer__use_regex": False}, "its pre_tokenizer is another"),
        ({"pre_tokenizer": None}, "its pre_tokenizer is another"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is another"),
        ({"model__ignore_merges": True}, "its model is another"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "its model, pre"),
    ],
)
def test_what_encodes_in_another_way_is_refused(folder, tmp_path, changes, message):
    if message == "its model, pre":
        changes |= {"pre_tokenizer": None}
    with pytest.raises(DataError, match=message):
        read_gpt2_tokenizer(edited(folder, tmp_path, **changes))


def test_more_tokens_than_gpt2s_are_refused(folder, tmp_path):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|pad|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="adds tokens to its vocabulary"):
        read_gpt2_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "\0", "<|endoftext|>"])
def test_damaged_file(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json is no tokenizer"):
        read_gpt2_tokenizer(tmp_path)


def test_fetched_from_a_folder_of_the_project(folder, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "here").symlink_to(folder)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir("/")
    assert fetch_gpt2_tokenizer("here").sha256 == tokenizer.sha256


def test_a_source_that_is_not_there_is_one_message(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name, **_):
        raise LocalEntryNotFoundError(f"no {name}\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        PipelineError, match=r"^tokenizer\.source: org/none is neither .*\)"
    ) as error:
        fetch_gpt2_tokenizer("org/none")
    assert "\n" not in str(error.value)


def test_packed_blocks_end_in_eos_alone(tokenizer, tmp_path):
    texts = ["ab", "", "é\n"]
    documents = {"train": texts, "test": texts}
    meta = pack(tmp_path, documents, tokenizer, mode="pad", length=5)
    assert (meta.unk_id, meta.num_unknown) == (None, {"train": 0, "test": 0})
    packed = Packed.open(tmp_path)
    for text, block in zip(texts, packed.train.tolist(), strict=True):
        ids = tokenizer.encode(text)
        assert block == ids + [tokenizer.eos_id] * (5 - len(ids))
        assert tokenizer.decode(block) == text


def test_merges_are_used(tokenizer):
    """Else the tests above say nothing of tokens of several bytes."""
    assert len(tokenizer.encode("!!")) == 1
    assert len(tokenizer.encode("AB")) == 2
