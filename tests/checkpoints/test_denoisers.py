"""Checkpoints of RADD: what is read computes what their networks do."""

import json

import pytest
import torch
from plain_denoisers import TOKENS, radd_config, radd_log_p, random_weights, write_radd
from reference_files import TINY
from safetensors.torch import save_file

from pipeline.checkpoints.reference.reading import build, read_published
from pipeline.errors import CheckpointError

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
