"""The index of documents: which texts a split has, without reading it again."""

import pytest

from pipeline.data.documents import documents_among, index_of, keys_of, path_of
from pipeline.data.packing import pack
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import DataError

TEXTS = [f"text {number}" for number in range(3000)]
TOKENIZER = train_char_tokenizer(TEXTS)


def packed(folder, mode="pad", num_workers=1):
    documents = {"train": [*TEXTS, "text 1", "text 2"], "test": ["text", "", "text 7"]}
    pack(folder, documents, TOKENIZER, mode=mode, length=12, num_workers=num_workers)
    return folder


def test_texts_are_found_where_they_are_documents(tmp_path):
    folder = packed(tmp_path)
    wanted = ["text 2999", "text 3000", "text", "", "text 7", "text 7", "é"]
    assert documents_among(wanted, folder, "train") == {"text 2999", "text 7"}
    assert documents_among(wanted, folder, "test") == {"text", "", "text 7"}
    assert documents_among([*TEXTS, "none"], folder, "train") == {*TEXTS}
    assert documents_among([], tmp_path / "nowhere", "train") == set()


def test_the_index_holds_each_document_once_whoever_encodes_it(tmp_path):
    one, three = packed(tmp_path / "1"), packed(tmp_path / "3", num_workers=3)
    content = path_of(one, "train").read_bytes()
    assert content == path_of(three, "train").read_bytes() == index_of([keys_of(TEXTS)])
    assert len(content) == 8 * len(TEXTS)


def test_running_text_has_no_index(tmp_path):
    packed(tmp_path, mode="concat")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "meta.json",
        "test.bin",
        "train.bin",
    ]


def test_keys_are_the_same_on_every_machine():
    assert keys_of(["", "é"]).tolist() == [13020603013274838756, 3394012004367669963]


@pytest.mark.parametrize("content", [None, b"", b"1234567"])
def test_an_index_that_is_missing_or_damaged_is_said(tmp_path, content):
    if content is not None:
        path_of(tmp_path, "train").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.documents is (missing: run|damaged:)"):
        documents_among(["a"], tmp_path, "train")
