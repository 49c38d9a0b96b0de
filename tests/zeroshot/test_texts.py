"""Rows of a set: read as they are, detokenized one by one, encoded whole or refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference_files import write_byte_level

from pipeline.data.gpt2 import read_gpt2_tokenizer
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import DataError
from pipeline.zeroshot.texts import check_tokenizer, encoded, read_texts

ROWS = ["", " = A heading = \n", "", " two words , here . \n", "  "]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return read_gpt2_tokenizer(write_byte_level(tmp_path_factory.mktemp("bytes"), num_merges=40))


def write(path, rows, column="text"):
    if path.suffix == ".parquet":
        pq.write_table(pa.table({column: rows}), path)
    else:
        path.write_text("".join(json.dumps({column: row}) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_rows_come_as_they_are_blank_ones_too(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    assert read_texts(path, "text", "none", key="--column").rows == ROWS
    texts = read_texts(path, "text", "wikitext", key="--column")
    assert texts.rows == ["", " = A heading =\n", "", " two words, here.\n", "  "]
    assert texts.num_words == 9


def test_the_word_level_file_of_wikitext_is_refused_by_name(tmp_path):
    path = write(tmp_path / "rows.parquet", [*ROWS, " the <unk> of it \n"])
    with pytest.raises(DataError, match=r"row 5 holds <unk>: this is WikiText's word-level file"):
        read_texts(path, "text", "wikitext", key="--column")
    assert read_texts(path, "text", "ptb", key="--column").rows[-1] == " the ? of it \n"


def test_a_wrong_column_is_named_by_what_named_it(tmp_path):
    path = write(tmp_path / "rows.parquet", ROWS, "sentence")
    with pytest.raises(DataError, match=r"no column 'text' \(zero_shot.sets.x.column\)"):
        read_texts(path, "text", "none", key="zero_shot.sets.x.column")


def test_ids_hold_every_byte_of_each_row(tmp_path, tokenizer):
    rows = ["naïve\n", "", "日本 x", "<|endoftext|>"]
    path = write(tmp_path / "rows.parquet", rows)
    documents = encoded(read_texts(path, "text", "none", key="--column"), tokenizer)
    assert [each.tolist() for each in documents] == tokenizer.encode_batch(rows)
    lengths = np.array(tokenizer.byte_lengths())
    assert [lengths[ids].sum() for ids in documents] == [len(row.encode()) for row in rows]
    assert lengths[tokenizer.eos_id] == 0


def test_a_row_that_the_tokenizer_does_not_know_is_refused(tmp_path):
    letters = train_char_tokenizer(["abcé "])
    path = write(tmp_path / "rows.parquet", ["abc é", "a cab", "a dab"])
    texts = read_texts(path, "text", "none", key="--column")
    with pytest.raises(DataError, match=r"row 2 holds what this tokenizer does not know \('d'\)"):
        encoded(texts, letters)


def test_another_tokenizer_than_gpt2s_is_refused_where_figures_are_of_its_tokens(tokenizer):
    check_tokenizer(tokenizer, "exact")
    with pytest.raises(DataError, match=r"protocol sedd: its figures are of GPT-2's tokens"):
        check_tokenizer(tokenizer, "sedd")
