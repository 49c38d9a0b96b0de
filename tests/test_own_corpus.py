"""A corpus of one's own, lines in a .txt.gz, and SentencePiece: real Oxen and DVC, to blocks."""

import gzip

import pytest
import yaml
from tiny_clone import make_clone, ran, run
from tiny_project import PATIENCE

from pipeline.config.edits import edit_yaml
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import TextTokenizer
from pipeline.oxen.opening import open_repository

LINES = [f"{number} cats sat on the mat" for number in range(90)]
CHANGES = {
    "data.files.train": "*.txt.gz",
    "data.files.test": None,
    "data.holdout": 0.5,
    "tokenizer.kind": "sentencepiece",
    "tokenizer.vocab_size": 300,
    "pack.mode": "concat",
    "sample.num": 4,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_from_lines_to_blocks(tmp_path, monkeypatch):
    text = "\n".join([*LINES, "", ""]) + "\n"
    (tmp_path / "cats.txt.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path / "no configuration"))
    repository = open_repository("cats", PATIENCE, create=True)
    pinned = repository.commit({"cats.txt.gz": tmp_path / "cats.txt.gz"}, "cats")
    source = {"data.repo": str(tmp_path / "cats"), "data.revision": pinned}
    clone = make_clone(tmp_path / "project", CHANGES | source)

    said = run(clone, "dvc", "repro", "pack")
    assert ran(said) == {"fetch", "tokenizer", "pack"}
    assert "fetched cats.txt.gz (92 rows)" in said
    assert "documents that are empty (in .txt, blank lines): " in said
    artifacts = clone / "artifacts"
    tokenizer = TextTokenizer.load(artifacts / "tokenizer")
    packed = Packed.open(artifacts / "packed")
    found = {
        line
        for blocks in (packed.train, packed.test)
        for line in tokenizer.decode(blocks.reshape(-1), "concat").split("</s>")
    }
    # But the last of each split, which may fill no block.
    assert len(found & set(LINES)) > 80
    assert "" in found
    lock = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]["tokenizer"]["params"]
    assert lock["params.yaml"]["tokenizer.sentencepiece"] == {
        "model_type": "bpe", "bos": 0, "eos": 1, "pad": 2, "unk": 3,
    }  # fmt: skip

    edit_yaml(clone / "params.yaml", {"tokenizer.sentencepiece.model_type": "unigram"})
    assert ran(run(clone, "dvc", "repro", "--dry", "pack")) == {"tokenizer"}
