"""Folders that appear whole, and rows."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.errors import DataError
from pipeline.oxen.folders import count_rows, in_place_of


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "data"
    with in_place_of(target) as folder:
        (folder / "one").write_text("1")
        assert not target.exists()
    (tmp_path / "deep" / ".data.1.partial").mkdir()
    with pytest.raises(ZeroDivisionError), in_place_of(target, replace=True) as folder:
        (folder / "two").write_text(str(1 // 0))
    assert [path.name for path in target.parent.iterdir()] == ["data"]
    assert [path.name for path in target.iterdir()] == ["one"]
    with in_place_of(target, replace=True) as folder:
        (folder / "two").write_text("2")
    assert [path.name for path in target.iterdir()] == ["two"]


def test_rows_are_counted(tmp_path):
    parquet.write_table(pa.table({"text": ["a", "b", "c"]}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}')
    (tmp_path / "empty.jsonl").write_text("\n")
    assert count_rows(tmp_path / "a.parquet") == 3
    assert count_rows(tmp_path / "b.jsonl") == 2
    assert count_rows(tmp_path / "empty.jsonl") == 0


def test_what_cannot_be_counted_is_said(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"cut\.parquet is no whole parquet file"):
        count_rows(tmp_path / "cut.parquet")
    footer = b"garbage of right length"
    damaged = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    (tmp_path / "cut.parquet").write_bytes(damaged)
    with pytest.raises(DataError, match=r"cut\.parquet is no whole parquet file: .*thrift"):
        count_rows(tmp_path / "cut.parquet")
    with pytest.raises(DataError, match=r"names\.csv must end in \.parquet or \.jsonl"):
        count_rows(tmp_path / "names.csv")
