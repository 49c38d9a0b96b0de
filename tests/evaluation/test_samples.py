import json
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_scorers import samples_of

from pipeline.errors import DataError
from pipeline.evaluation.samples import Samples

PAD, EOS, UNK, A, B, MASK = range(6)
VOCABULARY = SimpleNamespace(
    size=5, pad_id=PAD, eos_id=EOS, unk_id=UNK, special_ids={PAD, EOS, UNK}
)


def test_tokens_through_the_first_eos():
    ids = np.array([[A, B, EOS, EOS], [EOS, A, A, A], [A, A, A, A], [A, PAD, A, EOS]])
    assert samples_of(ids).num_tokens(EOS).tolist() == [3, 1, 4, 4]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([A, B, EOS, PAD], True),
        ([A, B, B, EOS], True),
        ([A, EOS, PAD, PAD], True),
        ([EOS, PAD, PAD, PAD], False),  # no letter
        ([A, B, A, B], False),  # no end
        ([A, PAD, EOS, PAD], False),
        ([A, UNK, EOS, PAD], False),
        ([A, MASK, EOS, PAD], False),
        ([A, EOS, B, PAD], False),
        ([A, EOS, EOS, PAD], False),
        ([A, EOS, PAD, MASK], False),
        ([PAD, PAD, PAD, PAD], False),
    ],
)
def test_well_formed(ids, expected):
    samples = samples_of([ids, [A, EOS, PAD, PAD]])
    assert samples.well_formed(VOCABULARY).tolist() == [expected, True]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([A, B, A, B], True),
        ([EOS, A, EOS, EOS], True),
        ([A, EOS, PAD, B], False),
        ([A, UNK, EOS, B], False),
        ([A, MASK, EOS, B], False),
    ],
)
def test_running_text_is_tokens_and_eos_anywhere(ids, expected):
    windows = windows_of([ids, [A, EOS, B, B]])
    assert windows.well_formed(VOCABULARY).tolist() == [expected, True]
    assert windows.num_tokens(EOS).tolist() == [4, 4]


def test_of_other_samples_the_tokens_through_eos_count():
    ids = np.array([[A, EOS, PAD, PAD], [A, A, A, A]])
    samples = Samples(None, np.arange(2), ids, ["a", "aaaa"], np.zeros(2))
    assert samples.num_tokens(EOS).tolist() == [2, 4]
    assert samples.well_formed(VOCABULARY).tolist() == [True, False]


def windows_of(ids):
    ids = np.array(ids)
    return Samples(None, np.arange(len(ids)), ids, [str(row) for row in ids], ids[:, 0], "concat")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(index, ids, text):
    return {"index": index, "num_steps": 4, "seed": 0, "text": text, "ids": ids, "nfe": index + 1}


def test_reads_what_the_sample_stage_writes(tmp_path):
    write(tmp_path / "4.jsonl", [row(0, [3, 1], "a"), row(1, [1, 0], "")])
    samples = Samples.read(tmp_path / "4.jsonl")
    assert len(samples) == 2
    assert samples.num_steps == 4
    assert samples.ids.tolist() == [[3, 1], [1, 0]]
    assert samples.texts == ["a", ""]
    assert samples.nfe.tolist() == [1, 2]
    assert samples.index.tolist() == [0, 1]
    assert samples.mode == "pad"
    assert Samples.read(tmp_path / "4.jsonl", "concat").mode == "concat"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no sample"),
        ('{"index": 0, "num_st', "is damaged"),
        ('{"index": 0}\n', "are damaged.*num_steps"),
        (json.dumps(row(0, [3, 1], "a")) + "\n" + json.dumps(row(1, [3], "b")), "are damaged"),
        (json.dumps(row(0, ["x", 1], "a")), "are damaged"),
    ],
)
def test_damaged_samples(tmp_path, content, message):
    path = tmp_path / "4.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        Samples.read(path)


def test_missing_samples(tmp_path):
    with pytest.raises(DataError, match="is missing: no samples"):
        Samples.read(tmp_path / "4.jsonl")
