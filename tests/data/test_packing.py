import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.packing import DOCUMENTS_AT_ONCE, Packed, pack
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import DataError


@pytest.fixture
def tokenizer():
    return train_char_tokenizer(["abc"])


def packed(folder, tokenizer, train, test, length=4):
    return pack(folder, {"train": train, "test": test}, tokenizer, mode="pad", length=length)


def test_bytes_of_the_files(tokenizer, tmp_path):
    packed(tmp_path / "out", tokenizer, ["abc", "b", ""], ["ca"])
    train = [3, 4, 5, 1, 4, 1, 0, 0, 1, 0, 0, 0]
    assert (tmp_path / "out/train.bin").read_bytes() == b"".join(
        id.to_bytes(2, "little") for id in train
    )
    assert (tmp_path / "out/test.bin").read_bytes() == bytes([5, 0, 3, 0, 1, 0, 0, 0])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "meta.json",
        "test.bin",
        "train.bin",
    ]


def test_meta(tokenizer, tmp_path):
    meta = packed(tmp_path, tokenizer, ["abc", "b"], ["éaé", "ß"])
    assert json.loads((tmp_path / "meta.json").read_text()) == {
        "dtype": "uint16",
        "length": 4,
        "mode": "pad",
        "vocab_size": 6,
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "num_blocks": {"train": 2, "test": 2},
        "text_lengths": [0, 1, 0, 1],
        "num_unknown": {"train": 0, "test": 3},
        "unknown": {"train": {}, "test": {"ß": 1, "é": 2}},
        "tokenizer_sha256": tokenizer.sha256,
    }
    assert Packed.open(tmp_path).meta == meta
    assert Packed.open(tmp_path).test.tolist() == [[2, 3, 2, 1], [2, 1, 0, 0]]


@given(texts=st.lists(st.text("abc", max_size=7), min_size=1, max_size=30))
def test_every_block_gives_its_text_back(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("packed")
    tokenizer = train_char_tokenizer(["abc"])
    packed(folder, tokenizer, texts, texts[:1], length=8)
    blocks = Packed.open(folder).train
    assert blocks.shape == (len(texts), 8)
    assert [tokenizer.decode(block) for block in blocks] == texts
    for text, block in zip(texts, blocks, strict=True):
        assert block[len(text)] == tokenizer.eos_id
        assert (block[len(text) + 1 :] == tokenizer.pad_id).all()


def test_more_documents_than_one_batch(tokenizer, tmp_path):
    texts = ["abc"[: number % 4] for number in range(2 * DOCUMENTS_AT_ONCE + 5)]
    meta = packed(tmp_path, tokenizer, iter(texts), ["a"])
    assert meta.num_blocks["train"] == len(texts)
    assert [tokenizer.decode(block) for block in Packed.open(tmp_path).train] == texts


def test_documents_are_written_as_they_come(tokenizer, tmp_path):
    seen = []

    def documents():
        for _ in range(4 * DOCUMENTS_AT_ONCE):
            partial = next(tmp_path.glob(".train.bin.*"), None)
            seen.append(partial.stat().st_size if partial else None)
            yield "abc"

    packed(tmp_path, tokenizer, documents(), ["a"])
    # All but the last batch, and what the file object buffers, are on disk by then.
    assert seen[-1] >= 2 * DOCUMENTS_AT_ONCE * 4 * 2


def test_large_vocabulary_takes_four_bytes(tmp_path):
    characters = "".join(chr(0x20000 + number) for number in range(65533))
    tokenizer = train_char_tokenizer([characters])
    assert tokenizer.size == 65536
    packed(tmp_path, tokenizer, [characters[-1]], ["a"], length=2)
    assert (tmp_path / "train.bin").read_bytes() == bytes([255, 255, 0, 0, 1, 0, 0, 0])
    blocks = Packed.open(tmp_path).train
    assert blocks.dtype == np.dtype("<u4")
    assert blocks.tolist() == [[65535, 1]]


def test_document_that_just_fits(tokenizer, tmp_path):
    packed(tmp_path, tokenizer, ["abc"], ["abc"], length=4)
    with pytest.raises(DataError):
        packed(tmp_path, tokenizer, ["abca"], ["abc"], length=4)


@pytest.mark.parametrize("split", ["train", "test"])
def test_too_long_document_is_named_and_nothing_written(tokenizer, tmp_path, split):
    texts = ["ab"] * (DOCUMENTS_AT_ONCE + 1) + ["abc" * 20]
    splits = {"train": ["a"], "test": ["b"], split: texts}
    with pytest.raises(DataError) as error:
        packed(tmp_path, tokenizer, **splits)
    assert str(error.value) == (
        f"{split} split: document {DOCUMENTS_AT_ONCE + 1} ('abcabcabcabcabcabcabcab…') has 60 "
        "tokens, and a block holds at most 3 and their eos: raise pack.length (got 4)"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_split(tokenizer, tmp_path, split):
    with pytest.raises(DataError, match=f"the {split} split has no document"):
        packed(tmp_path, tokenizer, **{"train": ["a"], "test": ["b"], split: []})
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_an_earlier_result_whole(tokenizer, tmp_path):
    packed(tmp_path, tokenizer, ["a"], ["b"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError):
        packed(tmp_path, tokenizer, ["c"], ["abcabc"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_blocks_are_read_only(tokenizer, tmp_path):
    packed(tmp_path, tokenizer, ["a"], ["b"])
    with pytest.raises(ValueError, match="read-only"):
        Packed.open(tmp_path).train[0, 0] = 3


def test_missing_packed_data(tmp_path):
    with pytest.raises(DataError, match=r"meta\.json is missing: no packed data in"):
        Packed.open(tmp_path)


@pytest.mark.parametrize("name", ["train.bin", "test.bin", "meta.json"])
def test_truncated_packed_data(tokenizer, tmp_path, name):
    packed(tmp_path, tokenizer, ["a"], ["b"])
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3])
    with pytest.raises(DataError, match="damaged"):
        Packed.open(tmp_path)


def test_meta_of_another_kind(tokenizer, tmp_path):
    packed(tmp_path, tokenizer, ["a"], ["b"])
    (tmp_path / "meta.json").write_text('{"length": 4}')
    with pytest.raises(DataError, match="damaged"):
        Packed.open(tmp_path)
