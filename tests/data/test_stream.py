"""One text without ends, as text8 is: exactly its characters, and windows of it to train on."""

import json
import shutil

import numpy as np
import pytest
from tiny_project import write_params

from pipeline.data.packed import Packed
from pipeline.data.stream import pack_stream
from pipeline.data.tokenizer import TextTokenizer, train_char_tokenizer
from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.training.schedule import Windows
from stages import pack, tokenizer

LETTERS = " abcdefghijklmnopqrstuvwxyz"


def text_of(num):
    return "".join(np.random.default_rng(0).choice(list(LETTERS), num))


@pytest.fixture
def letters():
    return train_char_tokenizer([LETTERS], special=False)


def test_a_tokenizer_of_exactly_its_characters(letters, tmp_path):
    assert (letters.size, letters.special_ids) == (27, set())
    assert (letters.pad_id, letters.eos_id, letters.unk_id, letters.start_id) == (
        *(None, None, None),
        27,
    )
    assert letters.encode("a z") == [1, 0, 26]
    assert letters.decode([1, 0, 26], "stream") == "a z"
    assert (letters.num_chars([1, 0, 26], "stream"), letters.num_bytes([1, 0], "stream")) == (3, 2)
    assert letters.show([1, 0, 27]) == "a ░"
    letters.save(tmp_path)
    again = TextTokenizer.load(tmp_path)
    assert (again.sha256, again.eos_id, again.pad_id) == (letters.sha256, None, None)
    for takes in (letters.encode, letters.encode_known):
        with pytest.raises(DataError, match=r"does not know 'A', '1' \(in 'aA1'\)"):
            takes("aA1")


def test_an_end_without_pad_is_damage(letters, tmp_path):
    letters.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "a"}))
    with pytest.raises(DataError, match=r"pad_token must be a text \(got None\)"):
        TextTokenizer.load(tmp_path)


def test_split_by_position_with_no_token_of_its_own(letters, tmp_path):
    text = text_of(1011)
    pieces = [text[:400], text[400:]]
    meta = pack_stream(tmp_path, {"train": pieces}, letters, length=16, holdout=0.05)
    # 0.05 of 1,011 is 51 characters, of which 3 blocks of 16 take 48.
    assert meta.num_blocks == {"train": 1011 - 102 - 16 + 1, "eval": 3, "test": 3}
    assert meta.sha256 == {split: sha256(tmp_path / f"{split}.bin") for split in meta.num_blocks}
    assert meta.num_dropped == {"train": 0, "eval": 3, "test": 3}
    assert (meta.mode, meta.vocab_size, meta.start_id) == ("stream", 27, 27)
    held = Packed.open(tmp_path)
    assert held.meta == meta
    shown = {
        split: [letters.decode(block, "stream") for block in getattr(held, f"{split}_rows")]
        for split in meta.num_blocks
    }
    assert shown["train"] == [text[at : at + 16] for at in range(1011 - 102 - 15)]
    assert "".join(shown["eval"]) == text[909 : 909 + 48]
    assert "".join(shown["test"]) == text[960 : 960 + 48]
    assert held.some_held_out(2).tolist() == held.eval_rows[:2].tolist()
    assert (tmp_path / "train.bin").stat().st_size == 909 * 2


def test_text8_loses_64_characters(letters, tmp_path):
    text = text_of(100_000)
    meta = pack_stream(tmp_path, {"train": [text]}, letters, length=256, holdout=0.05)
    # Of text8 itself, a thousand times as long, 5,000,000 = 19,531 * 256 + 64.
    assert (meta.num_blocks["test"], meta.num_dropped["test"]) == divmod(5_000, 256)
    assert meta.num_blocks["train"] == 90_000 - 255


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"train": ["ab" * 40], "test": ["abé" * 20]}, "test split: no other holds 'é' 20 times"),
        ({"train": ["ab" * 80]}, r"the eval split has 8 characters, which do not fill one block"),
        ({"train": ["ab" * 40], "test": [""]}, r"the test split has 0 characters"),
    ],
)
def test_what_no_stream_can_be_made_of(letters, tmp_path, texts, message):
    with pytest.raises(DataError, match=message):
        pack_stream(tmp_path / "out", texts, letters, length=16, holdout=0.05)
    assert list((tmp_path / "out").iterdir()) == []


def test_windows_are_drawn_by_seed_and_step_alone():
    drawn = [Windows(1000, seed=3).batch(step, 64) for step in range(50)]
    order = Windows(1000, seed=3)
    assert all(np.array_equal(order.batch(step, 64), drawn[step]) for step in (7, 2, 49))
    assert not np.array_equal(Windows(1000, seed=4).batch(0, 64), drawn[0])
    every = np.concatenate(drawn)
    assert (every.min() >= 0, every.max() < 1000) == (True, True)
    # 3,200 independent draws miss a place with probability 0.999 ** 3200.
    missed = 1 - len(np.unique(every)) / 1000
    assert missed == pytest.approx(0.999**3200, abs=0.03)


def test_lines_of_a_file_are_one_text(empty_project, capsys):
    folder = empty_project / "data"
    folder.mkdir()
    lines = "\n".join([text_of(30)] * 20)
    (folder / "text.txt").write_text(lines)
    changes = {"data.files.train": "text.txt", "data.files.test": None, "data.holdout": 0.1}
    write_params(empty_project, changes | {"pack.mode": "stream", "sample.num": 2})
    tokenizer.main(folder, empty_project / "tokenizer")
    pack.main(folder, empty_project / "tokenizer", empty_project / "packed")
    text, held = (
        TextTokenizer.load(empty_project / "tokenizer"),
        Packed.open(empty_project / "packed"),
    )
    assert text.size == len(set(lines))
    assert text.decode(held.train[0], "stream") == lines[:16]
    assert text.decode(held.train[-1], "stream") == lines[619 - 124 - 16 : 619 - 124]

    # A test file of its own: nothing is cut off the other, and what only it holds is refused.
    shutil.copy(folder / "text.txt", folder / "other.txt")
    changes["data.files.test"] = "other.txt"
    write_params(empty_project, changes | {"pack.mode": "stream", "sample.num": 2})
    pack.main(folder, empty_project / "tokenizer", empty_project / "packed")
    held = Packed.open(empty_project / "packed")
    assert held.meta.num_blocks == {"train": 619 - 15, "test": 38}
    assert held.eval_rows is held.test_rows
    (folder / "other.txt").write_text("?" * 40)
    with pytest.raises(SystemExit):
        pack.main(folder, empty_project / "tokenizer", empty_project / "packed")
    assert "test split: no other holds '?' 40 times" in capsys.readouterr().err
