import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.checkpoints.checkpoint import (
    check_tokenizer,
    checkpoint_config,
    load_checkpoint,
    save_checkpoint,
    weights_sha256,
)
from pipeline.errors import CheckpointError
from pipeline.methods.sedd.model import SEDD, SEDDConfig

CPU = torch.device("cpu")
CONFIG = SEDDConfig(
    graph="absorb",
    noise="loglinear",
    parameterization="raw",
    vocab_size=7,
    length=6,
    width=8,
    num_blocks=2,
    num_heads=2,
    cond_dim=4,
    dropout=0.1,
    eps=1e-3,
    sigma_min=1e-4,
    sigma_max=20.0,
    t_min=1e-3,
)


@pytest.fixture
def checkpoint(tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    model = SEDD(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    folder = tmp_path / "checkpoint"
    sha256 = save_checkpoint(folder, model, tokenizer=tokenizer, tokenizer_sha256="a" * 64)
    assert sha256 == weights_sha256(folder)
    return model, folder


def test_what_is_saved_comes_back(checkpoint):
    model, folder = checkpoint
    loaded = load_checkpoint(folder, CPU)
    assert loaded.config == CONFIG
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert (folder / "tokenizer" / "tokenizer.json").exists()


def test_same_weights_same_bytes(checkpoint, tmp_path):
    model, folder = checkpoint
    again = save_checkpoint(
        tmp_path / "again", model, tokenizer=folder / "tokenizer", tokenizer_sha256="a" * 64
    )
    assert again == weights_sha256(folder)


def test_truncated_weights_are_refused(checkpoint):
    _, folder = checkpoint
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_checkpoint(folder, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("vocab_embed.embedding"), "vocab_embed.embedding is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra is unexpected"),
        (
            lambda w: w.update({"output_layer.linear.bias": torch.zeros(3)}),
            r"output_layer\.linear\.bias has shape \[3\], expected \[8\]",
        ),
    ],
)
def test_weights_of_another_architecture_are_refused_by_name(checkpoint, change, message):
    _, folder = checkpoint
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, CPU)


def test_a_missing_checkpoint_says_how_to_make_one(tmp_path):
    with pytest.raises(CheckpointError, match="dvc repro"):
        load_checkpoint(tmp_path, CPU)


def test_a_foreign_config_is_refused(checkpoint):
    _, folder = checkpoint
    config = checkpoint_config(folder)
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 3}))
    with pytest.raises(CheckpointError, match="hidden_size"):
        load_checkpoint(folder, CPU)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_checkpoint(folder, CPU)


def test_another_tokenizer_is_refused(checkpoint):
    _, folder = checkpoint
    check_tokenizer(folder, "a" * 64)
    with pytest.raises(CheckpointError, match="trained with tokenizer aaaaaaaaaaaa"):
        check_tokenizer(folder, "b" * 64)
