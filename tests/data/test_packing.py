import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import pieces
from pipeline.data.byte_level import train_bpe_tokenizer
from pipeline.data.packed import Packed, remember
from pipeline.data.packing import pack
from pipeline.data.pieces import DOCUMENTS_AT_ONCE, in_order
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import DataError
from pipeline.files import sha256


@pytest.fixture
def tokenizer():
    return train_char_tokenizer(["abc"])


def packed(folder, tokenizer, train, test, length=4, mode="pad", **options):
    splits = {"train": train, "test": test}
    return pack(folder, splits, tokenizer, mode=mode, length=length, **options)


def hashes(folder, *splits):
    return {split: sha256(folder / f"{split}.bin") for split in splits}


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
        "test.documents",
        "train.bin",
        "train.documents",
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
        "num_dropped": {"train": 0, "test": 0},
        "text_lengths": [0, 1, 0, 1],
        "num_unknown": {"train": 0, "test": 3},
        "unknown": {"train": {}, "test": {"ß": 1, "é": 2}},
        "tokenizer_sha256": tokenizer.sha256,
        "sha256": hashes(tmp_path, "train", "test"),
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
        for _ in range(8 * DOCUMENTS_AT_ONCE):
            partial = next(tmp_path.glob(".train.bin.*"), None)
            seen.append(partial.stat().st_size if partial else None)
            yield "abc"

    packed(tmp_path, tokenizer, documents(), ["a"], num_workers=2)
    # A text is read only when few before it are left to write.
    assert seen[-1] >= DOCUMENTS_AT_ONCE * 4 * 2


@pytest.mark.parametrize("mode", ["pad", "concat"])
def test_memory_does_not_grow_with_the_data(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(pieces, "CHARACTERS_AT_ONCE", 2**17)
    words = ["".join(letters) for letters in product("abcdefghij", repeat=4)]
    tokenizer = train_bpe_tokenizer(words, 300)
    text = " ".join(words)[:20_000]

    def peak(num_documents):
        texts = (f"{number} {text}" for number in range(num_documents))
        tracemalloc.start()
        packed(tmp_path, tokenizer, texts, [text] * 20, 20_010, mode, num_workers=2)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(20)
    assert peak(400) < 1.5 * peak(100)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_memory_does_not_grow_with_a_document(tmp_path, kind):
    words = "the cat sat on the mat "
    train = train_char_tokenizer if kind == "char" else partial(train_bpe_tokenizer, vocab_size=300)
    tokenizer, texts = train([words]), [words * 200_000] * 2

    tracemalloc.start()
    packed(tmp_path, tokenizer, texts, [words], 16, "concat", num_workers=2)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 60e6


@pytest.mark.parametrize("num_workers", [1, 3])
def test_threads_give_results_in_order_and_run_a_little_ahead(num_workers):
    taken = []

    def items():
        for number in range(40):
            taken.append(number)
            yield number

    def work(number):
        time.sleep(0.002 * (number % 3))
        return number

    for place, result in enumerate(in_order(work, items(), num_workers)):
        assert result == place
        assert len(taken) <= place + 2 * num_workers + 1


# Of every length, with characters that the tokenizer does not know among them.
MIXED = ["abcéabc"[: number % 8] * (1 + number % 5 // 4) for number in range(157)]


@pytest.mark.parametrize("mode", ["pad", "concat"])
def test_bytes_do_not_depend_on_workers_or_batches(tokenizer, tmp_path, monkeypatch, mode):
    found = set()
    for num_workers, documents, characters in product((1, 2, 5), (1, 7, 1024), (3, 2**20)):
        monkeypatch.setattr(pieces, "DOCUMENTS_AT_ONCE", documents)
        monkeypatch.setattr(pieces, "CHARACTERS_AT_ONCE", characters)
        packed(tmp_path, tokenizer, MIXED, MIXED[:50], 16, mode, num_workers=num_workers)
        names = "train.bin", "test.bin", "meta.json"
        found.add(tuple((tmp_path / name).read_bytes() for name in names))
    assert len(found) == 1


def test_running_text_is_cut_into_blocks(tokenizer, tmp_path):
    meta = packed(tmp_path, tokenizer, ["abc", "", "ca", "b"], ["cccc"], mode="concat")
    a, b, c, eos = *tokenizer.encode("abc"), tokenizer.eos_id
    blocks = Packed.open(tmp_path)
    assert blocks.train.tolist() == [[a, b, c, eos], [eos, c, a, eos]]
    assert blocks.test.tolist() == [[c, c, c, c]]
    assert meta.num_dropped == {"train": 2, "test": 1}
    assert meta.sha256 == hashes(tmp_path, "train", "test")
    assert (meta.mode, meta.text_lengths) == ("concat", None)
    assert blocks.meta == meta


@given(
    texts=st.lists(st.text("abc", max_size=9), min_size=2, max_size=30), length=st.integers(2, 9)
)
def test_running_text_holds_every_document_but_the_tail(tmp_path_factory, texts, length):
    folder = tmp_path_factory.mktemp("packed")
    tokenizer = train_char_tokenizer(["abc"])
    stream = [id for text in texts for id in (*tokenizer.encode(text), tokenizer.eos_id)]
    if len(stream) < length:
        with pytest.raises(DataError, match="do not fill one block"):
            packed(folder, tokenizer, texts, texts, length, "concat")
        return
    meta = packed(folder, tokenizer, texts, texts, length, "concat")
    kept = Packed.open(folder).train.ravel().tolist()
    assert kept == stream[: len(kept)]
    assert meta.num_dropped["train"] == len(stream) - len(kept) < length
    windows = Packed.open(folder).train
    num_chars = sum(tokenizer.num_chars(window, "concat") for window in windows)
    assert num_chars == len(kept)


def test_unknown_characters_of_running_text_are_counted(tokenizer, tmp_path):
    meta = packed(tmp_path, tokenizer, ["aéa", "abc", "ßé"], ["abc"], mode="concat")
    assert meta.unknown == {"train": {"ß": 1, "é": 2}, "test": {}}


@pytest.mark.parametrize("split", ["train", "test"])
def test_running_text_that_fills_no_block(tokenizer, tmp_path, split):
    splits = {"train": ["abc"], "test": ["abc"], split: ["a"]}
    with pytest.raises(DataError) as error:
        packed(tmp_path, tokenizer, **splits, mode="concat")
    assert str(error.value) == (
        f"the {split} split has 2 tokens, which do not fill one block: lower pack.length (got 4)"
    )
    assert list(tmp_path.iterdir()) == []


ENDLESS = """
import sys
from itertools import repeat
from pathlib import Path
from pipeline.data.packing import pack
from pipeline.data.tokenizer import train_char_tokenizer
splits = {"test": ["abc" * 300] * 2, "train": repeat("abc" * 300)}
pack(Path(sys.argv[1]), splits, train_char_tokenizer(["abc"]), mode=sys.argv[2], length=1000)
"""


@pytest.mark.parametrize("mode", ["pad", "concat"])
def test_a_killed_run_leaves_nothing_that_looks_whole(tokenizer, tmp_path, mode):
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path), mode])
    partial = tmp_path / f".train.bin.{process.pid}.partial"
    while not (partial.exists() and partial.stat().st_size > 10**6):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    with pytest.raises(DataError, match=r"meta\.json is missing"):
        Packed.open(tmp_path)
    packed(tmp_path, tokenizer, ["abc"], ["abc"], mode=mode)
    assert len(Packed.open(tmp_path).train) == 1


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
        "tokens, and a block holds at most 3 and their eos: raise pack.length (got 4), or set "
        "pack.mode to concat"
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


def test_what_was_read_once_is_known_until_it_is_changed(tokenizer, empty_project, monkeypatch):
    folder = empty_project / "packed"
    packed(folder, tokenizer, ["a", "b"], ["b"])
    blocks, read = Packed.open(folder), []

    def reading(path):
        read.append(path.name)
        return sha256(path)

    monkeypatch.setattr("pipeline.data.packed.sha256", reading)
    for _ in range(2):
        assert blocks.identity(folder) == blocks.meta.asdict()
    assert read == ["train.bin", "test.bin"]
    # Of the same inode, as what DVC links to, but of other content.
    with (folder / "test.bin").open("rb+") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"test\.bin was changed since `pack` wrote it.*chmod u\+w"):
        blocks.identity(folder)
    assert read == ["train.bin", "test.bin", "test.bin"]


def test_a_copy_is_read_and_a_link_is_not(tokenizer, empty_project, monkeypatch):
    folder, other = empty_project / "packed", empty_project / "other"
    packed(folder, tokenizer, ["a", "b"], ["b"])
    for split, written in Packed.open(folder).meta.sha256.items():
        remember(folder / f"{split}.bin", written)
    other.mkdir()
    shutil.copy(folder / "meta.json", other)
    os.link(folder / "train.bin", other / "train.bin")
    shutil.copy(folder / "test.bin", other)
    read = []
    monkeypatch.setattr(
        "pipeline.data.packed.sha256", lambda path: read.append(path.name) or sha256(path)
    )
    assert Packed.open(other).identity(other) == Packed.open(folder).identity(folder)
    assert read == ["test.bin"]


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
