import gzip
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from typer.testing import CliRunner

from pipeline.data.packed import Packed
from pipeline.data.tokenizer import train_char_tokenizer
from stages.pack import main

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    params = yaml.safe_load(PARAMS.read_text())
    params["pack"]["length"] = 4
    params["sample"]["num"] = 1
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "data").mkdir()
    train_char_tokenizer(["Bea", "Al"]).save(tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(train, test):
    for split, names in (("train", train), ("test", test)):
        table = pa.table({"Names": pa.array(names, pa.string())})
        pq.write_table(table, f"data/{split}.parquet")
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, ["data", "tokenizer", "packed"])


def test_packs_both_splits(project, monkeypatch):
    result = run(["Bea", "Al"], ["Ale"])
    assert (result.exit_code, result.output) == (0, "")
    packed = Packed.open(project / "packed")
    monkeypatch.setattr("pipeline.data.packed.sha256", None)
    assert packed.identity(project / "packed") == packed.meta.asdict()
    assert packed.train.tolist() == [[4, 6, 5, 1], [3, 7, 1, 0]]
    assert packed.test.tolist() == [[3, 7, 6, 1]]


def test_running_text_says_what_became_of_the_tail(project):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["pack"] = {"mode": "concat", "length": 4}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    result = run(["Bea", "Al"], ["Ale"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        "blocks of 4 tokens: train 1, test 1; "
        "tokens at the end that fill no block, dropped: train 3, test 0\n"
    )
    assert Packed.open(project / "packed").train.tolist() == [[4, 6, 5, 1]]


def test_unknown_characters_are_told_in_one_line(project):
    result = run(["Bea", "Al"], ["Zoé", "éé"])
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == ("unknown characters became <unk>: test 5 ('Z' 1, 'o' 1, 'é' 3)\n")


def test_empty_documents_are_counted_and_said(project):
    result = run(["Bea", "", "Al", ""], ["", "Ale"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "documents that are empty (in .txt, blank lines): train 2, test 1\n"
    assert Packed.open(project / "packed").train.tolist()[1] == [1, 0, 0, 0]


def test_a_corpus_of_lines(project):
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["data"]["files"] = {"train": "*.txt.gz", "test": "*.csv"}
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    (project / "data/a.txt.gz").write_bytes(gzip.compress(b"Bea\n\nAl\n"))
    (project / "data/b.csv").write_text("Names,Count\nAle,1\n")
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, ["data", "tokenizer", "packed"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "documents that are empty (in .txt, blank lines): train 1\n"
    packed = Packed.open(project / "packed")
    assert packed.train.tolist() == [[4, 6, 5, 1], [1, 0, 0, 0], [3, 7, 1, 0]]
    assert packed.test.tolist() == [[3, 7, 6, 1]]


def test_too_long_name_is_one_message_and_nothing_written(project):
    result = run(["Bea"], ["Al", "Beale"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: test split: document 1 ('Beale') has 5 tokens")
    assert result.stderr.count("\n") == 1
    assert not any((project / "packed").iterdir())


def test_too_few_held_out_blocks_to_compare_with_are_said_now(project):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["sample"]["num"] = 3
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    result = run(["Bea", "Al"], ["Al", "Be"])
    assert result.exit_code == 1
    assert result.stderr == (
        "error: the held-out split has 2 blocks, fewer than sample.num (got 3): "
        "lower it, or real text cannot be compared\n"
    )


def test_empty_split(project):
    result = run(["Bea"], [])
    assert result.exit_code == 1
    assert "data.files.test: no document in test.parquet" in result.stderr
    assert not list((project / "packed").glob("*"))


def test_missing_tokenizer(project):
    (project / "tokenizer/tokenizer.json").unlink()
    result = run(["Bea"], ["Al"])
    assert result.exit_code == 1
    assert "no tokenizer in tokenizer" in result.stderr


def test_full_disk_is_one_message(project, monkeypatch):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr("pipeline.data.packing.whole", lambda path: nullcontext(full))
    result = run(["Bea"], ["Al"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no disk space left")
    assert result.stderr.count("\n") == 1
