"""Files and documents of a split: patterns, and what is held out."""

from itertools import chain

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from tiny_project import shipped_params

from pipeline.config.data import Data, DataFiles
from pipeline.data import splits
from pipeline.data.splits import (
    both_splits,
    files_of,
    is_held_out,
    matching,
    split_documents,
    split_rows,
)
from pipeline.errors import DataError


def data_of(train="train-*.parquet", test=None, holdout=0.25):
    files = {"train": train, "test": test}
    return Data(**shipped_params()["data"] | {"files": files, "holdout": holdout, "column": "text"})


def test_a_name_is_itself_or_what_it_matches():
    paths = ["b/train-1.parquet", "a/train-0.parquet", "test.parquet", "odd[1].parquet"]
    assert matching(paths, "test.parquet") == ["test.parquet"]
    assert matching(paths, "*/train-?.parquet") == ["a/train-0.parquet", "b/train-1.parquet"]
    assert matching(paths, "odd[1].parquet") == ["odd[1].parquet"]
    assert matching(paths, "*.parquet") == sorted(paths)
    assert matching(paths, "train") == []


def test_splits_must_have_files_of_their_own():
    paths = ["train-0.parquet", "train-1.parquet", "test.parquet"]
    assert files_of(paths, DataFiles(train="train-*", test=None)) == {"train": paths[:2]}
    with pytest.raises(
        DataError, match=r"data\.files\.test: no file matches \(got x\*\).*train-0.*or null"
    ):
        files_of(paths, DataFiles(train="train-*", test="x*"))
    with pytest.raises(DataError, match=r"test\.parquet would be in both train and test"):
        files_of(paths, DataFiles(train="t*", test="test.parquet"))


@given(st.lists(st.text(max_size=8), max_size=30), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_document_alone_decides_its_side(texts, one, other):
    """Whatever stands beside it; a larger share takes more, and gives none back."""
    low, high = sorted((one, other))
    for text in texts:
        assert is_held_out(text, low) <= is_held_out(text, high)
    assert [is_held_out(text, low) for text in texts[::-1]] == [
        is_held_out(text, low) for text in texts
    ][::-1]


def test_the_share_held_out_is_the_one_asked_for():
    """20,000 documents: within four standard deviations, a chance of 1 in 16,000 otherwise."""
    num, share = 20_000, 0.05
    held = sum(is_held_out(f"document {n}", share) for n in range(num))
    assert abs(held - num * share) < 4 * (num * share * (1 - share)) ** 0.5
    # Known values: every machine must split alike.
    assert [n for n in range(60) if is_held_out(str(n), share)] == [29]


@pytest.fixture
def shards(tmp_path):
    for shard in range(2):
        texts = [f"text {number}" for number in range(40 * shard, 40 * shard + 40)] + ["twice"]
        parquet.write_table(pa.table({"text": texts}), tmp_path / f"train-{shard}.parquet")
    return tmp_path


def test_splits_of_one_split_are_disjoint_whole_and_in_order(shards):
    train, test = (list(split_documents(shards, split, data_of())) for split in ("train", "test"))
    numbers = [int(text.split()[1]) for text in train if text != "twice"]
    assert numbers == sorted(numbers)
    assert set(train).isdisjoint(test)
    assert sorted(train + test) == sorted([f"text {n}" for n in range(80)] + ["twice"] * 2)
    assert 5 < len(test) < 40


def test_rows_that_are_added_move_no_document(shards):
    before = {split: set(split_documents(shards, split, data_of())) for split in ("train", "test")}
    more = pa.table({"text": [f"new {number}" for number in range(100)]})
    parquet.write_table(more, shards / "train-00.parquet")
    for split, texts in before.items():
        assert texts < set(split_documents(shards, split, data_of()))


def test_a_file_of_the_test_split_holds_nothing_out(shards):
    data = data_of("train-0.parquet", "train-1.parquet")
    assert len(list(split_documents(shards, "train", data))) == 41
    assert next(split_documents(shards, "test", data)) == "text 40"


def test_a_file_without_rows_is_no_matter_beside_others(shards):
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), shards / "test-0.parquet")
    (shards / "test-1.jsonl").write_text("")
    data = data_of("train-0.parquet", "test-*")
    with pytest.raises(
        DataError, match=r"data\.files\.test: no document in test-0\.parquet, test-1\.jsonl"
    ):
        list(split_documents(shards, "test", data))
    (shards / "test-2.jsonl").write_text('{"text": "one"}\n')
    assert list(split_documents(shards, "test", data)) == ["one"]


def test_a_split_without_documents_is_said(shards):
    with pytest.raises(DataError, match=r"data\.holdout: no document is in test \(got 1e-09\)"):
        list(split_documents(shards, "test", data_of(holdout=1e-9)))


@pytest.mark.parametrize("test", [None, "train-1.parquet"])
def test_both_splits_in_one_reading_are_those_of_two(shards, monkeypatch, test):
    data = data_of("train-0.parquet" if test else "train-*.parquet", test, holdout=0.3)
    alone = {split: list(split_rows(shards, split, data, [])) for split in ("train", "test")}
    read = []
    rows_of = splits.read_rows
    monkeypatch.setattr(
        splits, "read_rows", lambda path, *how: (read.append(path.name), rows_of(path, *how))[1]
    )
    with both_splits(shards, data, []) as rows:
        found = {split: list(each) for split, each in rows.items()}
    assert found == alone
    assert len(found["test"]) > 10
    assert read == ["train-0.parquet", "train-1.parquet"]
    assert len(list(shards.iterdir())) == 2


@pytest.mark.parametrize(("holdout", "split"), [(1e-9, "test"), (1 - 1e-9, "train")])
def test_a_split_without_documents_is_said_in_one_reading_too(shards, holdout, split):
    said = f"data.holdout: no document is in {split}"
    with (
        both_splits(shards, data_of(holdout=holdout), []) as rows,
        pytest.raises(DataError, match=said),
    ):
        list(chain(*rows.values()))
