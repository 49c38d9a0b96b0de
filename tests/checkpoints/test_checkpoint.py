import json
import math
import os
import resource
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import toy_config

from pipeline.checkpoints.checkpoint import (
    check_tokenizer,
    checkpoint_config,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
    weights_sha256,
)
from pipeline.errors import CheckpointError
from pipeline.huggingface.export import is_export
from pipeline.methods.sedd.model import SEDD

CPU = torch.device("cpu")
CONFIG = toy_config(
    *("absorb", "raw"), vocab_size=7, length=6, num_blocks=2, dropout=0.1, eps=1e-3, t_min=1e-3
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


def test_another_tokenizer_is_refused(checkpoint):
    _, folder = checkpoint
    check_tokenizer(folder, "a" * 64)
    with pytest.raises(CheckpointError, match="trained with tokenizer aaaaaaaaaaaa"):
        check_tokenizer(folder, "b" * 64)


def refusal(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, CPU)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert str(folder / "config.json") in message
    return message


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "7", '"x"', "[" * 100_000, "\x80", "{}"])
def test_a_config_that_holds_no_keys_of_ours_is_refused(checkpoint, text):
    _, folder = checkpoint
    (folder / "config.json").write_text(text, encoding="latin-1")
    refusal(folder)


HUGE = 10**18
VALUES = [None, True, -1, 0, 0.5, HUGE, 10**400, math.nan, -math.inf, "", "8", "none", [], [1], {}]
SIZES = ["vocab_size", "length", "width", "num_blocks", "num_heads", "cond_dim"]


@pytest.mark.parametrize(
    ("key", "fine"),
    [
        *((key, []) for key in ("graph", "noise", "parameterization", "tokenizer_sha256")),
        *((key, []) for key in SIZES),
        ("dropout", [0, 0.5]),
        ("eps", [0.5]),
        ("sigma_min", [None, 0.5]),
        ("sigma_max", [0.5]),
        ("t_min", [0.5]),
        ("scale_by_sigma", [True]),
        ("text_lengths", [None]),
        ("method", []),
    ],
)
def test_a_value_that_describes_no_model_is_named(checkpoint, key, fine):
    _, folder = checkpoint
    config = checkpoint_config(folder)
    for value in VALUES:
        if any(value is one or (value == one and type(value) is type(one)) for one in fine):
            continue
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        assert key in refusal(folder), value
        assert is_checkpoint(folder)


@pytest.mark.parametrize("value", [[1] * 5, [1] * 7, [1] * 5 + ["1"], [1] * 5 + [HUGE], [-1] * 6])
def test_numbers_of_texts_must_be_one_for_each_length(checkpoint, value):
    _, folder = checkpoint
    config = checkpoint_config(folder)
    (folder / "config.json").write_text(json.dumps(config | {"text_lengths": value}))
    assert "text_lengths" in refusal(folder)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_blocks": 20_000},
        {"num_blocks": 2**20},
        {"width": 2**16},
        {"width": 2**20, "num_heads": 2**18},
        {"vocab_size": 2**20},
        {"cond_dim": 2**20},
    ],
    ids=str,
)
def test_sizes_that_the_weights_do_not_have_cost_nothing(checkpoint, sizes):
    _, folder = checkpoint
    (folder / "config.json").write_text(json.dumps(checkpoint_config(folder) | sizes))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(CheckpointError, match=r"num_blocks|has shape"):
        load_checkpoint(folder, CPU)
    assert time.perf_counter() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_finite_number_is_named(checkpoint, value):
    _, folder = checkpoint
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.norm2.weight"][-1] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.norm2\.weight holds values that are no"):
        load_checkpoint(folder, CPU)


@pytest.mark.parametrize("value", [3e38, -2e19])
def test_a_weight_too_large_to_be_multiplied_is_named(checkpoint, value):
    _, folder = checkpoint
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.norm2.weight"][-1] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.norm2\.weight holds values too large"):
        load_checkpoint(folder, CPU)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64, torch.complex64])
def test_a_weight_that_is_no_real_number_is_named(checkpoint, dtype):
    _, folder = checkpoint
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.norm2.weight"] = weights["blocks.1.norm2.weight"].to(dtype)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.norm2\.weight is \w+, expected float32"):
        load_checkpoint(folder, CPU)


def test_a_weight_too_large_for_float32_is_named(checkpoint):
    _, folder = checkpoint
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.norm2.weight"] = weights["blocks.1.norm2.weight"].double() + 1e300
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.norm2\.weight holds values that are no"):
        load_checkpoint(folder, CPU)


def test_a_pipe_in_place_of_weights_is_not_waited_for(checkpoint):
    _, folder = checkpoint
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_checkpoint(folder, CPU)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        weights_sha256(folder)


def test_a_config_that_is_no_small_file_is_none(tmp_path):
    path = tmp_path / "config.json"
    for make in (Path.mkdir, os.mkfifo, lambda it: it.symlink_to("/dev/zero")):
        make(path)
        assert not is_checkpoint(tmp_path)
        assert not is_export(tmp_path)
        path.rmdir() if path.is_dir() else path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)
    assert not is_checkpoint(tmp_path)
    assert not is_export(tmp_path)
