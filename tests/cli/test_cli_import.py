"""`sedd import`: from every kind of source to a checkpoint that every command takes."""

import errno
import json
import os
import re

import pytest
import torch
from importing_checks import CONFIG, assert_holds, run_every_command
from reference_files import (
    GOLDEN,
    TINY,
    write_published,
)
from safetensors.torch import load_file, save_file

import pipeline.checkpoints.checkpoint
from pipeline.cli.model import load_model
from pipeline.data.tokenizer import train_char_tokenizer

CPU = torch.device("cpu")


@pytest.mark.parametrize("layout", ["safetensors", "bin", "pth", "bare"])
def test_every_layout(sedd, tmp_path, letters, layout):
    model = write_published(tmp_path / "source", layout, CONFIG, ema=layout == "pth")
    result = sedd("import", tmp_path / "source", tmp_path / "to" / "it", "--tokenizer", letters)
    assert result.exit_code == 0, result.output
    assert_holds(tmp_path / "to" / "it", model)
    assert re.fullmatch(
        r"imported .*source to .*/to/it: absorb, loglinear, [\d,]+ weights, 11 tokens, "
        r"texts of up to 8\n",
        result.stdout,
    )


@pytest.mark.parametrize("name", ["absorb_loglinear", "absorb_pth", "uniform_geometric"])
def test_the_references_own_files(sedd, elsewhere, tmp_path, name):
    config = next((GOLDEN / name).glob("config.*")).read_text()
    tokens = int(re.search(r"tokens\"?: (\d+)", config)[1])
    train_char_tokenizer([bytes(range(65, 65 + tokens - 3)).decode()]).save(tmp_path / "letters")
    options = ("--tokenizer", tmp_path / "letters")
    assert sedd("import", GOLDEN / name, tmp_path / "it", *options).exit_code == 0
    run_every_command(sedd, tmp_path / "it", "BAD")


def test_its_own_tokenizer_is_the_default(sedd, source, tmp_path, letters):
    assert sedd("import", source, tmp_path / "it").exit_code == 0
    _, tokenizer = load_model(tmp_path / "it", CPU)
    assert tokenizer.definition == (letters / "tokenizer.json").read_text()


def test_an_empty_folder_is_a_destination(sedd, source, tmp_path):
    (tmp_path / "it").mkdir()
    assert sedd("import", source, tmp_path / "it").exit_code == 0
    assert (tmp_path / "it" / "model.safetensors").is_file()


# Refusals: one message, and DST as it was.


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_destination_that_is_taken(refusal, source, tmp_path, kind):
    taken = tmp_path / "taken"
    if kind == "folder":
        taken.mkdir()
        taken /= "note"
    taken.write_text("mine")
    target = tmp_path / "taken"
    message = refusal("import", source, target)
    assert message == f"DST must be new or an empty folder (got {target})"
    assert taken.read_text() == "mine"


@pytest.mark.parametrize(
    ("layout", "damage", "message"),
    [
        ("safetensors", lambda path: path.unlink(), "no published checkpoint in"),
        ("safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9]), "cannot be read"),
        ("bin", lambda path: path.write_bytes(path.read_bytes()[:-99]), "cannot be read"),
        ("pth", lambda path: torch.save({"model": {"x": Harm()}}, path), "is not opened: it asks"),
        ("pth", lambda path: torch.save({"x": torch.ones(1)}, path), "vocab_embed.embedding is mi"),
        ("safetensors", lambda path: edit(path, wrong=1), "wrong is unexpected"),
        ("safetensors", lambda path: edit(path, **{"vocab_embed.embedding": 2}), "has shape [2]"),
    ],
)
def test_damaged_weights(refused, tmp_path, letters, layout, damage, message):
    write_published(tmp_path / "source", layout, CONFIG)
    [path] = [path for path in (tmp_path / "source").iterdir() if path.stem != "config"]
    damage(path)
    assert message in refused(tmp_path / "source", "--tokenizer", letters)


class Harm:
    def __reduce__(self):
        return os.abort, ()


def edit(path, **sizes):
    weights = load_file(path)
    save_file(weights | {name: torch.ones(size) for name, size in sizes.items()}, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": {"type": "absorbed"}}, "graph.type: Input should be 'absorb' or 'uniform'"),
        ({"model": TINY | {"n_layers": 4}}, "model.n_layers: Extra inputs are not permitted"),
    ],
)
def test_configs_of_something_else(refused, source, changes, message):
    (source / "config.json").write_text(json.dumps(CONFIG | changes))
    assert message in refused(source)


def test_a_config_of_transformers(refused, source):
    (source / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 8}))
    assert "is no config of the reference implementation" in refused(source)


def test_a_checkpoint_of_this_project(sedd, refused, source, tmp_path):
    assert sedd("import", source, tmp_path / "own").exit_code == 0
    assert "is a checkpoint of this project already" in refused(tmp_path / "own")


def test_a_tokenizer_of_another_size(refused, source, tmp_path):
    train_char_tokenizer(["abc"]).save(tmp_path / "three")
    message = refused(source, "--tokenizer", tmp_path / "three")
    assert message.startswith("the tokenizer has 6 tokens, and the model was trained on 11")


def test_a_damaged_tokenizer(refused, source, tmp_path):
    (source / "tokenizer.json").write_text("{}")
    assert "is damaged" in refused(source)
    assert "tokenizer.json is missing" in refused(source, "--tokenizer", tmp_path)


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "../none"])
def test_a_source_that_is_nothing(refused, elsewhere, name):
    assert f"SRC: there is no folder or Oxen repository {name}" in refused(name)


def test_a_file_and_an_empty_folder(refused, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    assert "there is no folder" in refused(tmp_path / "file")
    assert "it has nothing; needed: config.json and" in refused(tmp_path / "empty")


def test_a_revision_of_a_plain_folder(refused, source):
    assert refused(source, "--revision", "main").startswith("--revision: ")


def test_a_full_disk_leaves_nothing(refused, source, monkeypatch):
    def full(folder, *_, **__):
        (folder / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(pipeline.checkpoints.checkpoint, "save_checkpoint", full)
    assert "no disk space left" in refused(source)
