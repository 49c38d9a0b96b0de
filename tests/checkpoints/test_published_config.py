"""Configs of the reference: what is read, what is ignored, what is refused by name."""

import json

import pytest
import yaml
from reference_files import TINY, config_of, write_published

from pipeline.checkpoints.reference.reading import read_published
from pipeline.errors import CheckpointError

CONFIG = config_of(TINY, tokens=11)


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        read_published(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_config(folder, **changes):
    config = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        *sections, leaf = key.split("__")
        section = config
        for name in sections:
            section = section[name]
        if value is None:
            del section[leaf]
        else:
            section[leaf] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph__type": "absorbing"}, "graph.type: Input should be 'absorb' or 'uniform' (got"),
        ({"noise__type": "cosine"}, "noise: Input tag 'cosine' found using 'type' does not match"),
        ({"model__n_layers": 3}, "model.n_layers: Extra inputs are not permitted (got 3)"),
        ({"graph__rate": 2}, "graph.rate: Extra inputs are not permitted"),
        ({"noise__eps": 0.01}, "noise.loglinear.eps: Extra inputs are not permitted"),
        ({"model__type": "unet"}, "model.type: Input should be 'ddit'"),
        ({"model__length": None}, "model.length: Field required"),
        ({"model__n_heads": 3}, "num_heads (3) must divide width (8)"),
        ({"tokens": "11"}, "tokens: Input should be a valid integer (got '11')"),
        ({"tokens": None}, "is no config of the reference implementation: tokens missing"),
        ({"graph__type": "uniform"}, "model.scale_by_sigma must be false with graph.type uniform"),
        ({"noise__type": "geometric", "noise__sigma_min": None}, "sigma_min: Field required"),
        ({"noise__type": "geometric", "noise__sigma_min": 30}, "sigma_min must be less than"),
        ({"tokens": 12}, "vocab_embed.embedding has shape [12, 8], expected [13, 8]"),
        ({"model__n_blocks": 3}, "blocks.2.norm1.weight is missing"),
        ({"model__n_blocks": 1}, "blocks.1.attn_out.weight is unexpected"),
    ],
)
def test_configs_that_do_not_fit(tmp_path, changes, message):
    write_published(tmp_path, "safetensors", CONFIG)
    write_config(tmp_path, **changes)
    assert message in refusal(tmp_path)


def test_every_mistake_of_a_config_at_once(tmp_path):
    write_published(tmp_path, "safetensors", CONFIG)
    write_config(tmp_path, graph__type="x", model__length=0)
    message = refusal(tmp_path)
    assert "graph.type" in message
    assert "model.length" in message


@pytest.mark.parametrize("content", ["{", "[1]", "", '{"model_type": "gpt2", "n_embd": 8}', "\0"])
def test_files_that_are_no_config(tmp_path, content):
    write_published(tmp_path, "safetensors", CONFIG)
    (tmp_path / "config.json").write_text(content)
    assert "config.json" in refusal(tmp_path)


def test_no_yaml_tag_is_executed(tmp_path):
    write_published(tmp_path, "pth", CONFIG)
    text = (tmp_path / "config.yaml").read_text()
    harm = f"!!python/object/apply:os.mkdir ['{tmp_path / 'harmed'}']"
    (tmp_path / "config.yaml").write_text(f"{text}\nextra: {harm}\n")
    assert "config.yaml cannot be read" in refusal(tmp_path)
    assert not (tmp_path / "harmed").exists()
    yaml.unsafe_load((tmp_path / "config.yaml").read_text())
    assert (tmp_path / "harmed").exists()


def test_sizes_that_no_machine_holds_are_refused_without_trying(tmp_path):
    write_published(tmp_path, "safetensors", CONFIG)
    write_config(tmp_path, model__hidden_size=2**20)
    assert "expected [12, 1048576]" in refusal(tmp_path)
    write_config(tmp_path, model__hidden_size=2**24)
    assert "model.hidden_size: Input should be less than or equal to" in refusal(tmp_path)
    write_config(tmp_path, model__n_blocks=2**20)
    assert "not enough for 1048576 blocks" in refusal(tmp_path)
