"""Lightning checkpoints of MDLM's, BD3-LM's and Duo's code: their MDLM and SEDD, no other."""

import codecs
import os
import sys
import types

import pytest
import torch
from omegaconf import OmegaConf
from plain_denoisers import (
    TOKENS,
    lightning_config,
    mdlm_log_p,
    sedd_log_score,
    write_lightning,
)
from reference_files import TINY, write_byte_level
from tokenizers import AddedToken, Tokenizer

from pipeline.checkpoints.reference.reading import build, read_published
from pipeline.errors import CheckpointError

CPU = torch.device("cpu")
HEADS = TINY["n_heads"]
CLOSE = {torch.float32: {"rtol": 0, "atol": 1e-5}, torch.float64: {"rtol": 0, "atol": 1e-12}}
ROUNDED = {torch.float32: {"rtol": 0, "atol": 1e-5}, torch.float64: {"rtol": 0, "atol": 1e-6}}
BOTH = pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "float64"])
REPOSITORIES = pytest.mark.parametrize("repository", ["mdlm", "bd3lms", "duo"])
TOKENIZERS = "transformers.models.gpt2.tokenization_gpt2_fast"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """What Lightning stores beside the configuration: an object of transformers."""
    folder = write_byte_level(tmp_path_factory.mktemp("gpt2"), 3)
    kind = type("GPT2TokenizerFast", (), {"__module__": TOKENIZERS})
    module = types.ModuleType(TOKENIZERS)
    module.GPT2TokenizerFast = kind
    stored = kind()
    stored._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored.added = {257: AddedToken("[PAD]")}
    stored.kinds = {"names", "of", "inputs"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, TOKENIZERS, module)
        yield stored


def asked():
    """States [B, L], about half of them masks, and noise [B]."""
    random = torch.Generator().manual_seed(1)
    shape = (6, TINY["length"])
    x0 = torch.randint(TOKENS, shape, generator=random)
    xt = torch.where(torch.rand(shape, generator=random) < 0.5, TOKENS, x0)
    return xt, 0.05 + torch.rand(6, generator=random, dtype=torch.float64) * 3


@BOTH
@REPOSITORIES
@torch.no_grad()
def test_their_sedd_has_the_score_of_its_network(tmp_path, tokenizer, repository, dtype):
    config = OmegaConf.create(lightning_config(repository, "sedd"))
    weights = write_lightning(tmp_path / "sedd.ckpt", config, tokenizer=tokenizer)
    published = read_published(tmp_path)
    for name, value in weights.items():
        assert torch.equal(published.weights[name], value), name
    model = build(published, CPU).to(dtype)
    assert (model.config.parameterization, model.config.scale_by_sigma) == ("raw", True)
    assert (model.config.noise, model.config.eps, model.config.t_min) == ("loglinear", 1e-3, 1e-3)
    xt, sigma = asked()
    wide = {name: value.to(dtype) for name, value in weights.items()}
    expected = sedd_log_score(wide, xt, HEADS, sigma.to(dtype))
    assert expected.std() > 0.5
    torch.testing.assert_close(model.log_score(xt, sigma.to(dtype)), expected, **CLOSE[dtype])


@BOTH
@REPOSITORIES
@torch.no_grad()
def test_their_mdlm_says_what_its_network_says(tmp_path, tokenizer, repository, dtype):
    config = OmegaConf.create(lightning_config(repository, "mdlm"))
    weights = write_lightning(tmp_path / "mdlm.ckpt", config, tokenizer=tokenizer)
    model = build(read_published(tmp_path / "mdlm.ckpt"), CPU).to(dtype)
    assert (model.config.parameterization, model.config.norm_bias) == ("conditional", True)
    assert (model.config.vocab_size, model.config.length) == (TOKENS, TINY["length"])
    xt, _ = asked()
    masks = xt == TOKENS
    wide = {name: value.to(dtype) for name, value in weights.items()}
    expected = mdlm_log_p(wide, xt, HEADS)[masks][:, :-1]
    torch.testing.assert_close(model.log_p(xt)[masks], expected, **ROUNDED[dtype])


@pytest.mark.parametrize("prefix", ["backbone.", "backbone._orig_mod."])
@pytest.mark.parametrize("averages", [True, False])
def test_averaged_weights_where_there_are_some(tmp_path, averages, prefix):
    """A plain configuration, as one gets it who has resolved his own."""
    weights = write_lightning(
        tmp_path / "sedd.ckpt", lightning_config("mdlm", "sedd"), averages=averages, prefix=prefix
    )
    read = read_published(tmp_path).weights
    assert all(torch.equal(read[name], value) for name, value in weights.items())


def test_what_is_duos_own(tmp_path):
    config = lightning_config("duo", "sedd")
    config["noise"]["eps"], config["training"]["sampling_eps"] = 1e-4, 1e-2
    write_lightning(tmp_path / "sedd.ckpt", config)
    read = read_published(tmp_path).config
    assert (read.eps, read.t_min) == (1e-4, 1e-2)


# Refusals, one message each.


def refusal(source):
    with pytest.raises(CheckpointError) as caught:
        read_published(source)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert len(message) < 1000
    return message


def changed(config, key, value):
    *sections, last = key.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[last] = value
    return config


@pytest.mark.parametrize(
    ("repository", "key", "value", "message"),
    [
        ("mdlm", "time_conditioning", True, "time_conditioning must be False with parameterizatio"),
        ("mdlm", "parameterization", "d3pm", "parameterization: Input should be 'subs', 'sedd' or"),
        ("mdlm", "parameterization", "ar", "(got 'ar')"),
        ("mdlm", "parameterization", "sedd", "time_conditioning must be True with parameterizatio"),
        ("mdlm", "backbone", "dimamba", "backbone: Input should be 'dit' (got 'dimamba')"),
        ("mdlm", "diffusion", "uniform", "diffusion: Input should be 'absorbing_state' (got 'unif"),
        ("mdlm", "noise.type", "cosine", "noise: Input tag 'cosine' found using 'type'"),
        ("mdlm", "model.n_experts", 4, "model.n_experts: Extra inputs are not permitted (got 4)"),
        ("mdlm", "model.length", "${data.length}", "model.length: Input should be a valid integer"),
        ("mdlm", "data.tokenizer_name_or_path", "bert-base-uncased", "(got 'bert-base-uncased')"),
        ("bd3lms", "algo.name", "bd3lm", "algo.name: Input should be 'mdlm' or 'sedd' (got 'bd3l"),
        ("bd3lms", "algo.cross_attn", True, "algo.cross_attn: Input should be False (got True)"),
        ("duo", "algo.name", "duo", "algo.name: Input should be 'mdlm' or 'sedd' (got 'duo')"),
        ("duo", "algo.parameterization", "mean", "(got 'mean')"),
        ("duo", "algo.causal_attention", True, "algo.causal_attention: Input should be False"),
        ("mdlm", "model.hidden_size", 16, "vocab_embed.embedding has shape [12, 8], expected [12"),
        ("mdlm", "model.n_blocks", 3, "blocks.2.norm1.weight is missing"),
        ("mdlm", "model.n_heads", 3, "num_heads (3) must divide width (8)"),
    ],
)
def test_configurations_that_are_not_read(tmp_path, repository, key, value, message):
    config = OmegaConf.create(changed(lightning_config(repository), key, value))
    write_lightning(tmp_path / "it.ckpt", config)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize(
    "parameters", [None, {}, [], {"config": None}, {"config": 3}, {"config": [1]}, {"lr": 3e-4}]
)
def test_a_configuration_that_is_missing(tmp_path, parameters):
    write_lightning(tmp_path / "it.ckpt", {}, hyper_parameters=parameters)
    assert "it.ckpt has no hyper_parameters.config, which would" in refusal(tmp_path)


def test_every_key_that_a_configuration_lacks(tmp_path):
    write_lightning(tmp_path / "it.ckpt", OmegaConf.create({"seed": 1}))
    message = refusal(tmp_path)
    for key in ("model", "noise", "training", "data", "backbone", "parameterization"):
        assert f"{key}: Field required" in message


def test_a_section_that_holds_itself(tmp_path):
    config = lightning_config()
    config["model"]["n_blocks"] = config["model"]
    config["noise"] = config
    write_lightning(tmp_path / "it.ckpt", config)
    assert "hyper_parameters.config: " in refusal(tmp_path)


@pytest.mark.parametrize("place", ["noise.type", "model.hidden_size", "seed", "model"])
def test_a_value_that_holds_one_twice_and_so_on_is_not_written_out(tmp_path, place):
    value = ()
    for _ in range(40):
        value = (value, value)
    write_lightning(tmp_path / "it.ckpt", changed(lightning_config(), place, value))
    if place == "seed":
        assert read_published(tmp_path).config.width == TINY["hidden_size"]
    else:
        assert "an object" in refusal(tmp_path)


@pytest.mark.parametrize("name", [5, ("a", "b"), None])
def test_a_name_of_a_key_that_is_no_text(tmp_path, name):
    config = lightning_config()
    config["model"][name] = 1
    write_lightning(tmp_path / "it.ckpt", config)
    assert "model: Input should be a valid dictionary" in refusal(tmp_path)
    write_lightning(tmp_path / "it.ckpt", {name: config})
    assert "it.ckpt has no hyper_parameters.config" in refusal(tmp_path)


class Harm:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


class OtherCodec:
    def __reduce__(self):
        return codecs.encode, ("x", "rot13")


@pytest.mark.parametrize("place", ["tokenizer", "config", "loops"])
def test_unknown_classes_are_named_and_nothing_runs(tmp_path, place):
    path, marker = tmp_path / "it.ckpt", tmp_path / "harmed"
    config = lightning_config()
    if place == "config":
        config["model"]["n_blocks"] = Harm(marker)
    more = {"loops": Harm(marker)} if place == "loops" else {}
    write_lightning(path, config, tokenizer=Harm(marker) if place == "tokenizer" else None, **more)
    assert f"{path} is not opened: it asks for posix.mkdir, and only tensors" in refusal(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_classes_of_their_own_code_are_named(tmp_path, monkeypatch):
    module = types.ModuleType("dataloader")
    module.Text8Tokenizer = type("Text8Tokenizer", (), {"__module__": "dataloader"})
    monkeypatch.setitem(sys.modules, "dataloader", module)
    write_lightning(tmp_path / "it.ckpt", lightning_config(), tokenizer=module.Text8Tokenizer())
    assert "it asks for dataloader.Text8Tokenizer, and only tensors" in refusal(tmp_path)


def test_bytes_are_stored_in_one_codec(tmp_path):
    write_lightning(tmp_path / "it.ckpt", lightning_config(), tokenizer=OtherCodec())
    assert "it asks for the codec 'rot13'" in refusal(tmp_path)


def test_classes_that_are_read_are_not_imported(tmp_path, tokenizer):
    """Objects come back inert, without the modules that define them."""
    config = OmegaConf.create(lightning_config())
    write_lightning(tmp_path / "it.ckpt", config, tokenizer=tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        for name in [TOKENIZERS, "omegaconf", "omegaconf.dictconfig", "omegaconf.nodes"]:
            patch.setitem(sys.modules, name, None)
        assert read_published(tmp_path).config.width == TINY["hidden_size"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"state_dict": {}}, "does not hold named tensors: it is empty"),
        ({"state_dict": {"backbone.x": torch.ones(2)}}, "vocab_embed.embedding is missing"),
        (
            {"state_dict": {"backbone.x": "text"}},
            "does not hold named tensors: backbone.x",
        ),
        ({"state_dict": None}, "does not hold named tensors: epoch, global_step"),
        ({"state_dict": {"backbone.vocab_embed.embedding": torch.ones(())}}, "vocab_size must lie"),
        ({"ema": {"shadow_params": [torch.ones(2)]}}, "ema.shadow_params must be 30 tensors"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, more, message):
    write_lightning(tmp_path / "it.ckpt", lightning_config(), **more)
    assert message in refusal(tmp_path)


def test_averaged_weights_must_be_numbers(tmp_path):
    path = tmp_path / "it.ckpt"
    write_lightning(path, lightning_config())
    stored = torch.load(path)
    stored["ema"]["shadow_params"][-1][2] = float("inf")
    torch.save(stored, path)
    message = refusal(path)
    assert "output_layer.adaLN_modulation.bias holds values that are no finite numbers" in message


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_that_is_cut(tmp_path, share):
    path = tmp_path / "it.ckpt"
    write_lightning(path, lightning_config())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert str(path) in refusal(tmp_path)


def test_one_of_several_must_be_named(tmp_path):
    for name in ("best", "last"):
        write_lightning(tmp_path / f"{name}.ckpt", lightning_config())
    assert "has several checkpoints, name one of the files: best.ckpt, last" in refusal(tmp_path)
    assert read_published(tmp_path / "last.ckpt").config.num_blocks == TINY["n_blocks"]
