"""Agreement with the paper's reference code on its own tiny checkpoints (tests/golden)."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.sedd.loss import score_entropy
from pipeline.sedd.model import SEDD, SEDDConfig
from pipeline.sedd.sampler import denoise_weights, step_weights

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {"cpu": 2e-5, "cuda": 1e-4}
WEIGHTS_SHA256 = json.loads((GOLDEN / "sha256.json").read_text())


def load(name, device):
    folder = GOLDEN / name
    if (folder / "config.json").exists():
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
    else:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        weights = torch.load(folder / "checkpoint.pth", weights_only=True)
    sizes, noise = config["model"], config["noise"]
    model = SEDD(
        SEDDConfig(
            graph=config["graph"]["type"],
            noise=noise["type"],
            parameterization="raw",
            vocab_size=config["tokens"],
            length=sizes["length"],
            width=sizes["hidden_size"],
            num_blocks=sizes["n_blocks"],
            num_heads=sizes["n_heads"],
            cond_dim=sizes["cond_dim"],
            dropout=sizes["dropout"],
            eps=1e-3,
            sigma_min=noise["sigma_min"],
            sigma_max=noise["sigma_max"],
            t_min=1e-3,
            scale_by_sigma=sizes["scale_by_sigma"],
        )
    )
    model.network.load_state_dict(weights)
    return model.to(device).eval()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return torch.device(request.param)


@pytest.fixture(params=["absorb_loglinear", "absorb_pth", "uniform_geometric"])
def golden(request, device):
    arrays = np.load(GOLDEN / request.param / "golden.npz")
    on_device = {key: torch.from_numpy(value).to(device) for key, value in arrays.items()}
    return load(request.param, device), on_device


def check(ours, theirs, slack=1.0):
    """Every row within the device's tolerance of its own largest entry."""
    tolerance = slack * TOLERANCE[ours.device.type]
    assert ours.shape == theirs.shape
    error = (ours.double() - theirs.double()).flatten(1).abs().amax(1)
    scale = theirs.double().flatten(1).abs().amax(1)
    assert bool((error <= tolerance * scale).all()), (error / scale).tolist()


def test_weights_are_those_the_fixtures_were_made_with():
    for path, expected in WEIGHTS_SHA256.items():
        assert hashlib.sha256((GOLDEN / path).read_bytes()).hexdigest() == expected


def test_noise(golden):
    model, arrays = golden
    check(model.noise.sigma(arrays["t"])[:, None], arrays["sigma"][:, None])
    check(model.noise.dsigma(arrays["t"])[:, None], arrays["dsigma"][:, None])


@torch.no_grad()
def test_log_score(golden):
    model, arrays = golden
    check(model.log_score(arrays["x_t"], arrays["sigma"]), arrays["log_score"])


@torch.no_grad()
def test_loss(golden):
    model, arrays = golden
    # In float32 the reference's own uniform ratio loses digits where sigma is 2e-4.
    slack = 1.0 if model.graph.mask_id is not None else 1.5
    weighted = score_entropy(model, arrays["x0"], arrays["x_t"], arrays["t"])
    check(weighted / arrays["dsigma"][:, None], arrays["score_entropy"], slack)
    check(weighted.sum(-1)[:, None], arrays["loss"][:, None], slack)


@torch.no_grad()
@pytest.mark.parametrize("predictor", ["euler", "analytic"])
def test_step(golden, predictor):
    model, arrays = golden
    step_size = float(arrays["step_size"])
    ours = torch.cat(
        [
            step_weights(model, xt[None], t, t - step_size, predictor)
            for xt, t in zip(arrays["x_t"], arrays["t"], strict=True)
        ]
    )
    check(ours, arrays[f"{predictor}_probs"])


@torch.no_grad()
def test_denoise(golden):
    model, arrays = golden
    ours = torch.cat(
        [
            denoise_weights(model, xt[None], t)
            for xt, t in zip(arrays["x_t"], arrays["t"], strict=True)
        ]
    )
    check(ours, arrays["denoise_probs"])
