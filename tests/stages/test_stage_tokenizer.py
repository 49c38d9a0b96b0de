import hashlib
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from reference_files import write_byte_level
from sentencepiece import SentencePieceProcessor
from tiny_project import write_params
from typer.testing import CliRunner

from pipeline.data.tokenizer import TextTokenizer
from stages.tokenizer import main

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"Names": ["Bea", "Al"]}), tmp_path / "data/train.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def run():
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, ["data", "tokenizer"])


def test_learns_the_training_split(project):
    assert run().exit_code == 0
    tokenizer = TextTokenizer.load(project / "tokenizer")
    assert tokenizer.encode("ABael") == [3, 4, 5, 6, 7]
    content = (project / "tokenizer/tokenizer.json").read_bytes()
    assert tokenizer.sha256 == hashlib.sha256(content).hexdigest()


def test_learns_pairs_of_bytes(project):
    names = ["Anna", "Annabel", "Annette", "Hannah"]
    pq.write_table(pa.table({"Names": names}), project / "data/train.parquet")
    write_params(project, {"tokenizer.kind": "bpe", "tokenizer.vocab_size": 260})
    assert run().exit_code == 0
    tokenizer = TextTokenizer.load(project / "tokenizer")
    assert (tokenizer.size, tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (
        260,
        0,
        1,
        None,
    )
    assert len(tokenizer.encode("Anna")) == 2


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_learns_pieces(project, model_type):
    names = ["Anna", "Annabel", "Annette", "Hannah"] * 3
    pq.write_table(pa.table({"Names": names}), project / "data/train.parquet")
    changes = {"kind": "sentencepiece", "vocab_size": 280, "sentencepiece.model_type": model_type}
    write_params(project, {f"tokenizer.{key}": value for key, value in changes.items()})
    result = run()
    assert (result.exit_code, result.output) == (0, "")
    tokenizer = TextTokenizer.load(project / "tokenizer")
    assert (tokenizer.size, tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (280, 2, 1, 3)
    model = SentencePieceProcessor(model_file=str(project / "tokenizer/sentencepiece.model"))
    assert model.encode("Annabel") == tokenizer.encode("Annabel")
    assert len(tokenizer.encode("Anna")) < 4
    shutil.rmtree(project / "tokenizer")
    write_params(project, {f"tokenizer.{k}": v for k, v in (changes | {"vocab_size": 900}).items()})
    result = run()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: tokenizer.vocab_size must be at most ")
    assert result.stderr.count("\n") == 1
    assert not (project / "tokenizer").exists()


def test_takes_gpt2s_from_its_source(project):
    write_byte_level(project / "source", num_merges=5)
    write_params(project, {"tokenizer.kind": "gpt2", "tokenizer.source": "source"})
    assert run().exit_code == 0
    tokenizer = TextTokenizer.load(project / "tokenizer")
    assert (tokenizer.size, tokenizer.eos_id, tokenizer.unk_id) == (262, 261, None)
    assert len(tokenizer.encode("é")) == 2


def test_a_source_that_is_no_tokenizer_is_one_message(project):
    (project / "source").mkdir()
    write_params(project, {"tokenizer.kind": "gpt2", "tokenizer.source": "source"})
    result = run()
    assert result.exit_code == 1
    assert "tokenizer.json is missing: no tokenizer in" in result.stderr
    assert not (project / "tokenizer").exists()


def test_bad_data_is_one_message(project):
    pq.write_table(pa.table({"Name": ["Bea"]}), project / "data/train.parquet")
    result = run()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: data/train.parquet has no column 'Names'")
    assert result.stderr.count("\n") == 1
    assert not (project / "tokenizer").exists()


def test_reads_params_before_data(project):
    (project / "params.yaml").unlink()
    assert "params.yaml is missing" in run().stderr
