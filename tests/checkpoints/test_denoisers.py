"""Checkpoints of RADD and MDLM: what is read computes what their networks do."""

import json

import pytest
import torch
from plain_denoisers import (
    TOKENS,
    mdlm_config,
    mdlm_log_p,
    radd_config,
    radd_log_p,
    random_weights,
    write_mdlm,
    write_radd,
)
from reference_files import TINY
from safetensors.torch import save_file

from pipeline.checkpoints.reference.reading import Published, build, read_published
from pipeline.checkpoints.reference.timeless import without_mask, without_time
from pipeline.errors import CheckpointError
from pipeline.methods.sedd.weights import denoise_weights

CPU = torch.device("cpu")
HEADS = TINY["n_heads"]
CLOSE = {torch.float32: {"rtol": 0, "atol": 1e-5}, torch.float64: {"rtol": 0, "atol": 1e-12}}
BOTH = pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "float64"])


def asked(rows):
    """States [B, L], about half of them masks; many enough rows are projected by state."""
    random = torch.Generator().manual_seed(1)
    x0 = torch.randint(TOKENS, (rows, TINY["length"]), generator=random)
    return torch.where(torch.rand(x0.shape, generator=random) < 0.5, TOKENS, x0)


def in_dtype(weights, dtype):
    return {name: value.to(dtype) for name, value in weights.items()}


@BOTH
@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
@torch.no_grad()
def test_radd_says_what_its_network_says(tmp_path, layout, rows, dtype):
    weights, xt = in_dtype(write_radd(tmp_path, layout), dtype), asked(rows)
    model = build(read_published(tmp_path), CPU).to(dtype)
    expected = radd_log_p(weights, xt, HEADS)
    assert expected.std() > 0.5
    torch.testing.assert_close(model.log_p(xt), expected, **CLOSE[dtype])
    masks = xt == TOKENS
    torch.testing.assert_close(model.log_p(xt, masks), expected[masks], **CLOSE[dtype])
    sigma = torch.full((rows,), 0.7, dtype=dtype)
    score = model.log_score(xt, sigma)[..., :-1][masks]
    torch.testing.assert_close(score, (expected - sigma.expm1().log()[0])[masks], **CLOSE[dtype])


def test_radd_keeps_every_tensor_but_the_output_of_the_mask(tmp_path):
    weights = write_radd(tmp_path)
    published = read_published(tmp_path)
    for name in ("output_layer.linear.weight", "output_layer.linear.bias"):
        weights[name] = weights[name][:-1]
    assert published.weights.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(published.weights[name], value), name
    config = published.config
    assert (config.graph, config.parameterization, config.norm_bias) == (
        "absorb",
        "conditional",
        True,
    )
    assert (config.vocab_size, config.noise, config.eps) == (TOKENS, "loglinear", 1e-3)


def test_averages_of_a_run_of_radd_replace_its_weights(tmp_path):
    averaged = random_weights(TINY, TOKENS, takes_sigma=False, seed=1)
    raw = random_weights(TINY, TOKENS, takes_sigma=False)
    for folder in (".hydra", "checkpoints-meta"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(json.dumps(radd_config()))
    shadow = [value for name, value in averaged.items() if name != "rotary_emb.inv_freq"]
    state = {"model": raw, "ema": {"decay": 0.9999, "num_updates": 1, "shadow_params": shadow}}
    torch.save(state, tmp_path / "checkpoints-meta" / "checkpoint.pth")
    weights = read_published(tmp_path).weights
    assert torch.equal(weights["blocks.1.norm2.bias"], averaged["blocks.1.norm2.bias"])
    assert torch.equal(
        weights["output_layer.linear.bias"], averaged["output_layer.linear.bias"][:-1]
    )


def assert_says_what_mdlm_says(model, weights, xt, tolerance):
    expected = mdlm_log_p(weights, xt, HEADS)
    masks, tokens = xt == TOKENS, expected[..., :-1]
    assert tokens[masks].std() > 0.5
    close = {"rtol": 0, "atol": tolerance}
    torch.testing.assert_close(model.log_p(xt)[masks], tokens[masks], **close)
    torch.testing.assert_close(model.log_p(xt, masks), tokens[masks], **close)
    # Where a token is, it is carried over, and no mask is drawn anywhere.
    half = torch.tensor(0.5, dtype=torch.float64)
    drawn = denoise_weights(model, xt, half).to(expected.dtype)
    torch.testing.assert_close(drawn, tokens.exp(), **close)
    assert expected[..., -1].exp().max() == 0


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["backbone.", ""])
@torch.no_grad()
def test_mdlm_says_what_its_network_says(tmp_path, layout, prefix, rows):
    weights, xt = write_mdlm(tmp_path, layout, prefix), asked(rows)
    model = build(read_published(tmp_path), CPU)
    assert_says_what_mdlm_says(model, weights, xt, 1e-5)
    # What is left in float64 is that weights are rounded once.
    wide = in_dtype(weights, torch.float64)
    assert_says_what_mdlm_says(model.double(), wide, xt, 1e-6)


@pytest.mark.parametrize("rows", [1, 6])
@torch.no_grad()
def test_without_rounding_weights_without_time_are_exact(tmp_path, rows):
    weights = in_dtype(write_mdlm(tmp_path), torch.float64)
    config = read_published(tmp_path).config
    folded = Published(config, without_mask(without_time(weights)))
    assert_says_what_mdlm_says(build(folded, CPU), weights, asked(rows), 1e-12)


def test_what_an_mdlm_becomes(tmp_path):
    write_mdlm(tmp_path)
    config = read_published(tmp_path).config
    assert (config.graph, config.parameterization, config.norm_bias) == (
        "absorb",
        "conditional",
        True,
    )
    assert (config.vocab_size, config.length, config.width) == (TOKENS, 8, 8)
    assert (config.noise, config.eps, config.dropout) == ("loglinear", 1e-3, 0.1)


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        read_published(folder)
    message = str(caught.value)
    assert message.count("\n") == 0
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 12}, "vocab_embed.embedding has shape [12, 8], expected [13, 8]"),
        ({"tokens": None}, "tokens: Input should be a valid integer"),
        ({"graph": {"type": "uniform"}}, "graph.type: Input should be 'absorb' (got 'uniform')"),
        ({"noise": {"type": "cosine"}}, "noise: Input tag 'cosine' found"),
        (
            {"model": {"type": "ddit"}},
            "no config of the reference implementation: graph missing",
        ),
        ({"model": {"n_blocks": 3}}, "blocks.2.norm1.weight is missing"),
        ({"model": {"n_experts": 3}}, "model.n_experts: Extra inputs are not permitted (got 3)"),
    ],
)
def test_configs_that_do_not_fit_weights_of_radd(tmp_path, changes, message):
    write_radd(tmp_path)
    config = radd_config()
    for key, value in changes.items():
        config[key] = config[key] | value if key == "model" else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert message in refusal(tmp_path)


def test_weights_of_radd_must_be_numbers(tmp_path):
    weights = write_radd(tmp_path)
    weights["blocks.0.norm1.bias"][2] = float("nan")
    save_file(weights, tmp_path / "model.safetensors")
    assert "blocks.0.norm1.bias holds values that are no finite numbers" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_conditioning": True}, "time_conditioning: Input should be False (got True)"),
        ({"vocab_size": 13}, "vocab_embed.embedding has shape [12, 8], expected [13, 8]"),
        ({"vocab_size": 1}, "vocab_size: Input should be greater than or equal to 2"),
        ({"hidden_dim": 16}, "vocab_embed.embedding has shape [12, 8], expected [12, 16]"),
        ({"hidden_dim": None}, "hidden_dim: Field required"),
        ({"n_blocks": 1}, "blocks.1.adaLN_modulation.bias is unexpected"),
        ({"n_heads": 3}, "num_heads (3) must divide width (8)"),
        ({"cond_dim": 4}, "sigma_map.mlp.0.weight has shape [8, 256], expected [4, 256]"),
        ({"model_type": "bd3lm"}, "and model_type must be 'mdlm' (got 'bd3lm')"),
    ],
)
def test_configs_that_do_not_fit_weights_of_mdlm(tmp_path, changes, message):
    write_mdlm(tmp_path)
    config = {key: value for key, value in (mdlm_config() | changes).items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert message in refusal(tmp_path)


def test_weights_of_mdlm_must_be_numbers(tmp_path):
    weights = write_mdlm(tmp_path)
    weights["sigma_map.mlp.0.weight"][2] = float("nan")
    save_file(weights, tmp_path / "model.safetensors")
    assert "sigma_map.mlp.0.weight holds values that are no finite numbers" in refusal(tmp_path)
