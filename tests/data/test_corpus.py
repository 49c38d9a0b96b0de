import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.corpus import read_documents, read_rows
from pipeline.errors import DataError

NAMES = ["Ann", "", "Zoë\n👩", "<eos>"]


def parquet(path, values, kind=None, column="Names", **options):
    pq.write_table(
        pa.table({column: pa.array(values, kind), "Count": range(len(values))}), path, **options
    )
    return path


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refusal(path, column="Names"):
    with pytest.raises(DataError) as error:
        list(read_documents(path, column))
    return str(error.value)


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_parquet_text_comes_in_order(tmp_path, kind):
    path = parquet(tmp_path / "a.parquet", NAMES, kind, row_group_size=3)
    assert list(read_documents(path, "Names")) == NAMES


def test_jsonl_text_comes_in_order(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"Names": name, "Count": 1} for name in NAMES])
    assert list(read_documents(path, "Names")) == NAMES


def test_documents_stream(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"Names": "Ann"}\nnot JSON\n')
    documents = read_documents(path, "Names")
    assert next(documents) == "Ann"
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        next(documents)


def test_more_documents_than_one_batch(tmp_path):
    names = [str(number) for number in range(3000)]
    path = parquet(tmp_path / "a.parquet", names, row_group_size=700)
    assert list(read_documents(path, "Names")) == names


def test_memory_does_not_grow_with_a_row_group(tmp_path):
    def peak(num_documents):
        texts = [f"{number:05}" + "x" * 10_000 for number in range(num_documents)]
        path = parquet(tmp_path / "a.parquet", texts, compression="none", use_dictionary=False)
        assert pq.read_metadata(path).num_row_groups == 1
        before = pa.total_allocated_bytes()
        return max(pa.total_allocated_bytes() - before for _ in read_documents(path, "Names"))

    assert peak(6000) < 1.5 * peak(1500)


def test_missing_file(tmp_path):
    assert refusal(tmp_path / "a.parquet") == f"{tmp_path / 'a.parquet'} is missing"


def test_missing_column_lists_those_there(tmp_path):
    path = parquet(tmp_path / "a.parquet", NAMES)
    assert "no column 'names' (data.column); its columns: 'Names', 'Count'" in refusal(
        path, "names"
    )
    path = jsonl(tmp_path / "a.jsonl", [{"Names": "Ann", "Count": 1}])
    assert "no key 'names' (data.column); its keys: 'Names', 'Count'" in refusal(path, "names")


def test_column_of_another_type(tmp_path):
    path = parquet(tmp_path / "a.parquet", NAMES)
    assert "column 'Count' (data.column) holds int64, not text" in refusal(path, "Count")
    path = jsonl(tmp_path / "a.jsonl", [{"Names": "Ann"}, {"Names": 3}])
    assert "row 1 holds no text but 3" in refusal(path)


def test_null_is_named_not_dropped(tmp_path):
    assert "row 1 holds no text" in refusal(parquet(tmp_path / "a.parquet", ["Ann", None]))
    assert "row 0 holds no text" in refusal(jsonl(tmp_path / "a.jsonl", [{"Names": None}]))


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.95])
def test_truncated_parquet(tmp_path, keep):
    path = parquet(tmp_path / "a.parquet", NAMES)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    assert "damaged or not parquet" in refusal(path)


def test_flipped_bytes_in_a_page(tmp_path):
    path = parquet(tmp_path / "a.parquet", [str(number) for number in range(5000)])
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    assert "damaged or not parquet" in refusal(path)


def test_jsonl_of_something_else(tmp_path):
    (tmp_path / "a.jsonl").write_text("[1]\n")
    assert "line 1 is no JSON object but [1]" in refusal(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b'{"Names": "\xff"}\n')
    assert "line 1 is not valid JSON" in refusal(tmp_path / "a.jsonl")
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "a.jsonl").write_text(f'{{"Names": "Ann"}}\n{{"Names": "Bea", "more": {deep}}}\n')
    assert "line 2 is not valid JSON" in refusal(tmp_path / "a.jsonl")


def test_half_a_surrogate_pair_is_refused_by_line_where_it_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    for half in (b"\\ud83d", b"\\udc69\\ud83d", b"\xed\xa0\xbd"):
        path.write_bytes(b'{"Names": "Ann"}\n{"Names": "Ada%b"}\n' % half)
        assert "line 2 " in refusal(path)
    path.write_bytes(b'{"Names": "\\ud83d\\udc69", "more\\ud83d": "\\ud83d", "b": "\\ud83d"}\n')
    assert list(read_documents(path, "Names")) == ["👩"]
    with pytest.raises(DataError, match="line 1 holds half a surrogate pair in column 'b'"):
        list(read_rows(path, "Names", ["b"]))


def test_a_time_is_no_label(tmp_path):
    beyond_python = pa.array([2**62]).cast(pa.timestamp("us", "Europe/Nowhere"))
    pq.write_table(pa.table({"Names": ["Ann"], "Born": beyond_python}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"holds timestamp.*, not text or numbers"):
        list(read_rows(tmp_path / "a.parquet", "Names", ["Born"]))


def test_a_mark_of_byte_order_is_no_part_of_a_line(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"Names": "Ann"}\n')
    assert list(read_documents(tmp_path / "a.jsonl", "Names")) == ["Ann"]


@pytest.mark.parametrize("kind", [pa.string(), pa.null()], ids=str)
def test_a_file_without_rows_adds_nothing(tmp_path, kind):
    assert not list(read_documents(parquet(tmp_path / "a.parquet", [], kind), "Names"))
    (tmp_path / "a.jsonl").write_text("\n")
    assert not list(read_documents(tmp_path / "a.jsonl", "Names"))


def test_two_columns_of_the_name_are_said(tmp_path):
    columns = [pa.array(["Ann"]), pa.array(["Bea"]), pa.array([1])]
    table = pa.table(columns, names=["Names", "Names", "Count"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "more than one column 'Names' (data.column)" in refusal(tmp_path / "a.parquet")
    path = tmp_path / "a.jsonl"
    path.write_text('{"Names": "Names", "more": {"Names": 1, "é": 1, "\\u00e9": 2}, "é": "Zoë"}\n')
    assert list(read_documents(path, "Names")) == ["Names"]
    assert list(read_documents(path, "é")) == ["Zoë"]
    for column in ("Names", "é", "\\u00e9"):
        path.write_text(f'{{"{column}": "Ann", "Count": 1, "{column}": "Bea"}}\n')
        column = column.replace("\\u00e9", "é")
        assert refusal(path, column).endswith(
            f": line 1 has the key {column!r} (data.column) twice"
        )
    path.write_text('{"Names": "Ann", "\\u004eames": "Bea"}\n')
    assert refusal(path).endswith(": line 1 has the key 'Names' (data.column) twice")


def test_a_dotted_name_is_the_column_and_no_field_of_another(tmp_path):
    fields = pa.array([{"b": "field", "c": "x"}])
    for order in (["a", "a.b"], ["a.b", "a"]):
        table = pa.table({"a": fields, "a.b": ["column"]}).select(order)
        pq.write_table(table, tmp_path / "a.parquet")
        assert list(read_documents(tmp_path / "a.parquet", "a.b")) == ["column"]
    assert "holds struct" in refusal(tmp_path / "a.parquet", "a")
    assert "has no column 'a.c'" in refusal(tmp_path / "a.parquet", "a.c")


def test_names_that_look_alike_are_told_apart_and_many_are_cut(tmp_path):
    path = parquet(tmp_path / "a.parquet", NAMES, column="\ufeffNames")
    assert "its columns: '\\ufeffNames', 'Count'" in refusal(path)
    path = jsonl(tmp_path / "a.jsonl", [{"Names ": "Ann"} | dict.fromkeys(map(str, range(999)))])
    assert "its keys: 'Names ', '0', " in refusal(path)
    assert refusal(path).endswith("'18' and 980 more")


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
def test_both_formats_give_back_any_text(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("documents")
    from_parquet = read_documents(parquet(folder / "a.parquet", names, pa.string()), "Names")
    from_jsonl = read_documents(jsonl(folder / "a.jsonl", [{"Names": n} for n in names]), "Names")
    assert list(from_parquet) == list(from_jsonl) == names
