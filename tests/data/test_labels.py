"""What values of a column are called, whatever a table holds."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.data import Label
from pipeline.data.corpus import read_rows
from pipeline.data.labels import LONGEST, name_of
from pipeline.errors import DataError

VALUES, CUT = Label(column="y", edges=None), Label(column="y", edges=[1.0, 2.0])


@pytest.mark.parametrize("value", [[1], {"a": 1}, b"x", "x" * 10**6, 10**LONGEST])
def test_what_is_no_name_of_a_value(value):
    with pytest.raises(DataError, match="column 'y' must hold") as error:
        name_of(VALUES, value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("value", [float("nan"), "x" * 10**6, [1], 10**400, -(10**400)])
def test_what_cannot_be_cut_at_edges(value):
    with pytest.raises(DataError, match="column 'y' must hold numbers to cut at edges") as error:
        name_of(CUT, value)
    assert len(str(error.value)) < 200


def rows(path):
    return list(read_rows(path, "text", ["y"]))


def test_half_a_surrogate_pair_is_refused_in_a_label_too(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "Ada", "y": "a\ud83d"}))
    with pytest.raises(DataError, match="line 1 holds half a surrogate pair in column 'y'"):
        rows(path)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([2**60], pa.timestamp("ms")),
        pa.array([0], pa.timestamp("ms", tz="No/Such")),
        pa.array([2**30], pa.date32()),
        pa.array([2**62], pa.duration("ms")),
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([b"\xff"]),
    ],
    ids=lambda values: str(values.type),
)
def test_a_column_of_no_text_or_numbers_is_named_before_it_is_read(tmp_path, values):
    pq.write_table(pa.table({"text": ["Ada"], "y": values}), tmp_path / "a.parquet")
    message = r"column 'y' \(data.labels\) holds .+, not text or numbers"
    with pytest.raises(DataError, match=message):
        rows(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "values", [pa.array(["F"]).dictionary_encode(), pa.array([1.5]), pa.array([True]), pa.nulls(1)]
)
def test_text_and_numbers_are_read(tmp_path, values):
    pq.write_table(pa.table({"text": ["Ada"], "y": values}), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [("Ada", values[0].as_py())]
