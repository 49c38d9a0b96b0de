"""Packing part by part, wherever each is packed, writes what packing from end to end does."""

import gzip
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_project import shipped_params

from pipeline.config.data import Data
from pipeline.data.corpus import read_row_group, read_rows, row_groups
from pipeline.data.encoding import Encoder
from pipeline.data.labels import label_names, named, watching
from pipeline.data.packing import pack, write_blocks
from pipeline.data.parts import Part, Recipe, pack_part, parts_of, pieces_of
from pipeline.data.pieces import Packer
from pipeline.data.splits import Empty, both_splits
from pipeline.data.tokenizer import TextTokenizer, train_char_tokenizer
from pipeline.errors import DataError

TEXTS = ["abcdé"[: number % 6] for number in range(90)]
KINDS = [None if number % 7 == 0 else f"kind {number % 3}" for number in range(90)]


@pytest.fixture
def corpus(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    table = pa.table({"text": TEXTS, "kind": KINDS})
    pq.write_table(table.slice(0, 50), data / "a.parquet", row_group_size=7)
    pq.write_table(table.slice(0, 0), data / "b.parquet")
    pq.write_table(table.slice(50), data / "c.parquet", row_group_size=20)
    train_char_tokenizer(["abcd"]).save(tmp_path / "tokenizer")
    return tmp_path


def data_of(train="*", test=None, labels=()):
    files = {"train": train, "test": test}
    changes = {"files": files, "holdout": 0.3, "column": "text", "labels": list(labels)}
    return Data(**shipped_params()["data"] | changes)


def end_to_end(folder, data, mode, length):
    names = label_names(folder / "data", data)
    seen = {"train": [], "test": []}
    empty = Empty()
    with both_splits(folder / "data", data, [*names]) as rows:
        texts = {
            split: empty.watching(split, watching(named(each, data), names, seen[split]))
            for split, each in rows.items()
        }
        tokenizer = encoder_of(folder).tokenizer
        pack(
            folder / "whole",
            texts,
            tokenizer,
            mode=mode,
            length=length,
            labels=names,
            label_rows=seen,
        )
    return contents(folder / "whole"), empty.line()


def by_parts(folder, data, mode, length):
    encoder, names, empty = encoder_of(folder), label_names(folder / "data", data), Empty()
    recipe = Recipe(data, folder / "tokenizer", encoder.tokenizer.sha256, mode, length, names)
    parts = parts_of(folder / "data", data)
    # As between processes.
    found = [pickle.loads(pickle.dumps(pack_part(recipe, part))) for part in parts]
    pieces = pieces_of(found, len(parts), empty)
    write_blocks(folder / "parts", pieces, Packer(encoder, mode, length), ["train", "test"], names)
    return contents(folder / "parts"), empty.line()


def encoder_of(folder):
    return Encoder(TextTokenizer.load(folder / "tokenizer"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("mode", ["pad", "concat"])
@pytest.mark.parametrize(
    ("files", "num_parts"), [(("*", None), 8 + 1 + 2), (("[ab].parquet", "c*"), 8 + 1 + 2)]
)
def test_bytes_are_those_of_one_reading(corpus, mode, files, num_parts):
    data = data_of(*files, labels=["kind"] if mode == "pad" else [])
    assert len(parts_of(corpus / "data", data)) == num_parts
    assert by_parts(corpus, data, mode, 8) == end_to_end(corpus, data, mode, 8)


def test_files_without_row_groups_are_a_part_each(corpus):
    data = corpus / "data"
    lines = "\n".join(TEXTS).encode()
    for path in data.iterdir():
        path.unlink()
    (data / "a.txt").write_bytes(lines)
    (data / "b.txt.gz").write_bytes(gzip.compress(lines))
    found = parts_of(data, data_of())
    assert found == [Part(data / name, None, None) for name in ("a.txt", "b.txt.gz")]
    assert by_parts(corpus, data_of(), "concat", 8) == end_to_end(corpus, data_of(), "concat", 8)


def test_row_groups_are_rows_of_the_file(corpus):
    path = corpus / "data/a.parquet"
    assert row_groups(path) == [7] * 7 + [1]
    rows = [row for group in range(8) for row in read_row_group(path, "text", ["kind"], group)]
    assert rows == list(read_rows(path, "text", ["kind"]))


def test_a_row_without_text_has_its_number_in_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c", None]}), path, row_group_size=2)
    with pytest.raises(DataError, match="row 3 holds no text in column 'text'"):
        list(read_row_group(path, "text", (), 1))


def test_a_document_that_does_not_fit_is_named_by_its_part(corpus):
    sha256 = encoder_of(corpus).tokenizer.sha256
    recipe = Recipe(data_of("a*", "c*"), corpus / "tokenizer", sha256, "pad", 5, {})
    path = corpus / "data/c.parquet"
    with pytest.raises(DataError) as error:
        pack_part(recipe, Part(path, 1, "test"))
    assert str(error.value) == (
        f"{path}, row group 1: test split: document 1 ('abcdé') has 5 tokens, and a block holds "
        "at most 4 and their eos: raise pack.length (got 5), or set pack.mode to concat"
    )


def test_another_tokenizer_in_the_folder_is_refused(corpus):
    recipe = Recipe(data_of(), corpus / "tokenizer", "0" * 64, "pad", 8, {})
    with pytest.raises(DataError, match="holds another tokenizer here: machines must share the"):
        pack_part(recipe, Part(corpus / "data/a.parquet", 0, None))
