"""Every format, plain and compressed, against parquet: the same texts, in bounded memory."""

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import corpus
from pipeline.data.corpus import count_rows, read_documents
from pipeline.errors import DataError

FORMATS = [".txt", ".csv", ".tsv", ".jsonl", ".parquet"]
COMPRESSIONS = ["", ".gz", ".zst"]
every_file = pytest.mark.parametrize(
    "suffix", [suffix + packed for suffix in FORMATS for packed in COMPRESSIONS]
)
TEXTS = ["Ann", "", " ", "Zoë 👩", '"quoted", with\ttab', "a\rb\u2028c", "<eos>", "", "007"]


def table(texts: list[str], delimiter: str) -> bytes:
    file = io.StringIO()
    rows = csv.writer(file, delimiter=delimiter)
    rows.writerows([("Count", "Names"), *enumerate(texts)])
    return file.getvalue().encode()


def content(suffix: str, texts: list[str]) -> bytes:
    """A file of `texts`, which go into the column Names."""
    if suffix == ".txt":
        return "".join(f"{text}\n" for text in texts).encode()
    if suffix == ".jsonl":
        return "".join(json.dumps({"Names": text}) + "\n" for text in texts).encode()
    if suffix == ".parquet":
        file = io.BytesIO()
        rows = pa.table({"Names": pa.array(texts, pa.string()), "Count": range(len(texts))})
        pq.write_table(rows, file, compression="none", use_dictionary=False)
        return file.getvalue()
    return table(texts, {".csv": ",", ".tsv": "\t"}[suffix])


def write(path: Path, data: bytes) -> Path:
    """Compressed as its last suffix says."""
    with pa.output_stream(path, compression="detect") as file:
        file.write(data)
    return path


def corpus_file(folder: Path, suffix: str, texts: list[str]) -> Path:
    return write(folder / f"a{suffix}", content(Path(f"a{suffix}").suffixes[0], texts))


def texts_of(path: Path) -> list[str]:
    return list(read_documents(path, "Names"))


def refusal(path: Path, column: str = "Names") -> str:
    with pytest.raises(DataError) as error:
        list(read_documents(path, column))
    [line] = error.value.args
    assert line.startswith(str(path))
    return line.removeprefix(str(path))


@every_file
def test_every_format_gives_the_texts_of_parquet(tmp_path, suffix):
    expected = texts_of(corpus_file(tmp_path, ".parquet", TEXTS))
    path = corpus_file(tmp_path, suffix, TEXTS)
    assert texts_of(path) == expected == TEXTS
    assert count_rows(path) == len(TEXTS)
    assert [each.name for each in tmp_path.iterdir() if "parquet" not in each.name] == (
        [] if "parquet" in suffix else [path.name]
    )


# A line's end and NUL are in no line of text; in a table a lone \r is quoted.
of_lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"))
of_fields = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(texts=st.lists(of_lines, min_size=1, max_size=20), end=st.sampled_from(["\n", "\r\n"]))
def test_lines_are_documents_whatever_ends_them(tmp_path_factory, texts, end):
    path = tmp_path_factory.mktemp("documents") / "a.txt"
    # One that the first line begins with would be the file's own mark of byte order.
    path.write_bytes(("\ufeff" + "".join(text + end for text in texts)).encode())
    assert texts_of(path) == texts
    assert count_rows(path) == len(texts)


@given(texts=st.lists(of_fields, max_size=20), delimiter=st.sampled_from([",", "\t"]))
def test_tables_give_back_any_text(tmp_path_factory, texts, delimiter):
    suffix = ".csv" if delimiter == "," else ".tsv"
    path = tmp_path_factory.mktemp("documents") / f"a{suffix}"
    path.write_bytes(table(texts, delimiter))
    assert texts_of(path) == texts
    assert count_rows(path) == len(texts)


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_without_rows_add_nothing(tmp_path, suffix):
    path = corpus_file(tmp_path, suffix, [])
    assert list(read_documents(path, "Other")) == []
    assert count_rows(path) == 0
    if suffix != ".parquet":
        path.write_bytes(b"")
        assert texts_of(path) == []
        assert count_rows(path) == 0


def test_a_file_packed_in_parts_is_one(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"Ann\nB") + gzip.compress(b"ea\nCleo"))
    assert texts_of(path) == ["Ann", "Bea", "Cleo"]


@every_file
def test_memory_does_not_grow_with_a_file(tmp_path, suffix):
    def peak(num_documents: int) -> int:
        texts = [f"{number:05}" + "x" * 2000 for number in range(num_documents)]
        path = corpus_file(tmp_path, suffix, texts)
        del texts
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        try:
            arrow = max(pa.total_allocated_bytes() - before for _ in read_documents(path, "Names"))
            return arrow + tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(8000) < 1.5 * peak(2000)


def test_documents_come_before_the_end_is_read(tmp_path):
    path = corpus_file(tmp_path, ".txt.gz", [str(number) for number in range(500_000)])
    path.write_bytes(path.read_bytes()[:-100])
    documents = read_documents(path, "Names")
    assert [next(documents) for _ in range(1000)] == [str(number) for number in range(1000)]
    with pytest.raises(DataError, match=r"a\.txt\.gz is damaged or not gzip: Truncated"):
        list(documents)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl"])
def test_what_would_fill_the_memory_is_refused_by_its_line(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(corpus, "MOST_AT_ONCE", 2**20)
    bomb = write(tmp_path / f"a{suffix}.gz", b"\n" + bytes(2**26))
    assert bomb.stat().st_size < 2**17
    tracemalloc.start()
    try:
        assert refusal(bomb).startswith(": line 2 has more than 1,048,576 bytes, and a document")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_line_may_be_as_long_as_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MOST_AT_ONCE", 10)
    path = write(tmp_path / "a.txt", b"123456789\n")
    assert texts_of(path) == ["123456789"]
    path.write_bytes(b"1234567890\n")
    assert refusal(path).startswith(": line 1 has more than 10 bytes")


def test_a_field_that_is_never_closed_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", b'Names\nAnn\n"Bea\nCleo\n')
    assert refusal(path) == ": line 4: unexpected end of data"
    monkeypatch.setattr(corpus, "MOST_AT_ONCE", 10)
    path.write_bytes(b'Names\n"' + b"123\n" * 10)
    assert refusal(path) == ": line 4: field larger than field limit (10)"


WRONG = {
    "a.xlsx": (b"", ": a dataset file is .txt (a document a line), .csv or .tsv (a header, then"),
    "a.gz": (b"", ": a dataset file is .txt"),
    "a.txt.bz2": (b"", ": a dataset file is .txt"),
    "bytes.txt": (
        b"Ann\nB\xffa\n",
        ": line 2 is not UTF-8 ('utf-8' codec can't decode byte 0xff in position 1: invalid start "
        "byte): save the file as UTF-8",
    ),
    "utf16.txt": ("Ann\n".encode("utf-16"), ": line 1 is not UTF-8 ("),
    "utf16.csv": ("Names\n".encode("utf-16-le"), ": line 1 holds the character NUL, which no text"),
    "nul.tsv": (b"Names\nAnn\nB\0ea\n", ": line 3 holds the character NUL"),
    "column.csv": (
        b"Count,names\n1,Ann\n",
        " has no column 'Names' (data.column); its columns: 'Count', 'names'",
    ),
    "twice.tsv": (b"Names\tNames\nAnn\tBea\n", " has more than one column 'Names' (data.column)"),
    "wide.csv": (
        b"Names,Count\nAnn,1\n\nBea,2,3\n",
        ": line 4 ends a row of 3 fields, and the header has 2: quote a field that holds ','",
    ),
    "narrow.tsv": (b"Names\tCount\nAnn\n", ": line 2 ends a row of 1 field, and the header has 2"),
    "quotes.tsv": (b'Names\n"Ann" Lee\n', ": line 2: '\t' expected after '\"'"),
    "plain.txt.gz": (b"Ann\n", " is damaged or not gzip: "),
    "plain.jsonl.zst": (b"{}\n", " is damaged or not zstd: "),
    "plain.parquet.gz": (b"PAR1", " is damaged or not gzip: "),
    "empty.txt.gz": (b"", " is damaged or not gzip: it has no bytes"),
    "empty.parquet.zst": (b"", " is damaged or not zstd: it has no bytes"),
    "cut.csv.gz": (gzip.compress(b"Names\nAnn\n")[:-3], " is damaged or not gzip: Truncated"),
    "inside.parquet.gz": (gzip.compress(b"PAR1"), " is damaged or not parquet: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, name):
    data, said = WRONG[name]
    path = tmp_path / name
    path.write_bytes(data)
    assert refusal(path).startswith(said)
    assert [each.name for each in tmp_path.iterdir()] == [name]
    if not name.startswith(("column", "twice")):  # columns are no matter to a count
        with pytest.raises(DataError):
            count_rows(path)
