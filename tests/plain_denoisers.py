"""The networks of RADD and MDLM written out from what is known of them, and files of theirs.

RADD's (arXiv 2406.03736): a transformer without time, norms with weight and bias, outputs for every
state; the last one, the mask's, is left out of the softmax. MDLM's (arXiv 2406.07524): norms with a
weight, then scaled and shifted, and what is added is gated, by linear maps of an embedding of
sigma, which is 0 where time_conditioning is off; the mask's logit is lowered by a million
("zero-masking"), and a position that holds a token keeps it ("carry-over").
"""

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from reference_files import TINY
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]
TOKENS = 11
FREQUENCIES = 256
NEGATIVE = -1e6


def radd_config(sizes: dict[str, int] = TINY, tokens: int = TOKENS) -> dict[str, Any]:
    """config.json as RADD's code writes it, with sections that say nothing of the model."""
    return {
        "ngpus": 4,
        "tokens": tokens,
        "gpt_dir": "gpt2-large",
        "training": {"ema": 0.9999, "loss_type": "lambda_DCE"},
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "sampling": {"predictor": "euler", "steps": 1024},
        "model": {
            "name": "small_radd",
            "type": "ddit_wot",
            "dropout": 0.02,
            "use_checkpoint": False,
            "dtype": "float16",
            **sizes,
        },
    }


def mdlm_config(sizes: dict[str, int] = TINY, tokens: int = TOKENS) -> dict[str, Any]:
    """config.json as transformers writes it of MDLM."""
    return {
        "architectures": ["MDLM"],
        "auto_map": {"AutoConfig": "configuration_mdlm.MDLMConfig"},
        "model_type": "mdlm",
        "return_dict": False,
        "torch_dtype": "float32",
        "vocab_size": tokens + 1,
        "model_length": sizes["length"],
        "hidden_dim": sizes["hidden_size"],
        "cond_dim": sizes["cond_dim"],
        "n_blocks": sizes["n_blocks"],
        "n_heads": sizes["n_heads"],
        "dropout": 0.1,
        "time_conditioning": False,
    }


def random_weights(
    sizes: dict[str, int], tokens: int, *, takes_sigma: bool, seed: int = 0
) -> Weights:
    """Weights of one of the two networks, none of them 0, in the order of its parameters."""
    width, cond, states = sizes["hidden_size"], sizes["cond_dim"], tokens + 1
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, about: float = 0.0) -> Tensor:
        return about + 0.3 * torch.randn(shape, generator=random)

    def norm(name: str) -> Weights:
        found = {f"{name}.weight": drawn(width, about=1.0)}
        return found if takes_sigma else found | {f"{name}.bias": drawn(width)}

    def linear(name: str, rows: int, columns: int) -> Weights:
        return {f"{name}.weight": drawn(rows, columns), f"{name}.bias": drawn(rows)}

    def modulation(name: str, parts: int) -> Weights:
        return linear(f"{name}.adaLN_modulation", parts * width, cond) if takes_sigma else {}

    head_dim = width // sizes["n_heads"]
    weights = {"vocab_embed.embedding": drawn(states, width, about=0.2)}
    if takes_sigma:
        weights |= linear("sigma_map.mlp.0", cond, FREQUENCIES)
        weights |= linear("sigma_map.mlp.2", cond, cond)
    exponents = torch.arange(0, head_dim, 2).float() / head_dim
    weights["rotary_emb.inv_freq"] = 1 / 10_000**exponents
    for block in range(sizes["n_blocks"]):
        name = f"blocks.{block}"
        weights |= norm(f"{name}.norm1")
        weights[f"{name}.attn_qkv.weight"] = drawn(3 * width, width)
        weights[f"{name}.attn_out.weight"] = drawn(width, width)
        weights |= norm(f"{name}.norm2")
        weights |= linear(f"{name}.mlp.0", 4 * width, width)
        weights |= linear(f"{name}.mlp.2", width, 4 * width)
        weights |= modulation(name, 6)
    weights |= norm("output_layer.norm_final")
    weights |= linear("output_layer.linear", states, width)
    return weights | modulation("output_layer", 2)


def network(weights: Weights, xt: Tensor, num_heads: int, sigma: Tensor | None = None) -> Tensor:
    """Outputs [B, L, V] of xt [B, L]; sigma [B] goes to the network that takes it."""
    cond = None if sigma is None else _cond(weights, sigma)
    x = weights["vocab_embed.embedding"][xt]
    for block in range(sum(name.endswith("attn_out.weight") for name in weights)):
        name = f"blocks.{block}"
        shift1, scale1, gate1, shift2, scale2, gate2 = _modulation(weights, name, cond, 6)
        normed = _norm(weights, f"{name}.norm1", x) * (1 + scale1) + shift1
        attended = _attention(weights, name, normed, num_heads)
        x = x + gate1 * (attended @ weights[f"{name}.attn_out.weight"].T)
        normed = _norm(weights, f"{name}.norm2", x) * (1 + scale2) + shift2
        inner = F.gelu(_linear(weights, f"{name}.mlp.0", normed), approximate="tanh")
        x = x + gate2 * _linear(weights, f"{name}.mlp.2", inner)
    shift, scale = _modulation(weights, "output_layer", cond, 2)
    normed = _norm(weights, "output_layer.norm_final", x) * (1 + scale) + shift
    return _linear(weights, "output_layer.linear", normed)


def radd_log_p(weights: Weights, xt: Tensor, num_heads: int) -> Tensor:
    """RADD's log p of each token [B, L, V - 1], which it reads at masks."""
    return network(weights, xt, num_heads)[..., :-1].log_softmax(-1)


def mdlm_log_p(weights: Weights, xt: Tensor, num_heads: int) -> Tensor:
    """MDLM's log p of each state [B, L, V], with its zero-masking and carry-over."""
    sigma = torch.zeros(len(xt), dtype=weights["vocab_embed.embedding"].dtype)
    logits = network(weights, xt, num_heads, sigma)
    logits[..., -1] += NEGATIVE
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    told = xt != logits.shape[-1] - 1
    log_p[told] = NEGATIVE
    log_p[told, xt[told]] = 0.0
    return log_p


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return normed * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0.0)


def _cond(weights: Weights, sigma: Tensor) -> Tensor:
    half = FREQUENCIES // 2
    # In float32, as their code has them, whatever the rest is in.
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half).float() / half)
    angles = sigma[:, None] * frequencies
    features = torch.cat([angles.cos(), angles.sin()], -1)
    hidden = F.silu(_linear(weights, "sigma_map.mlp.0", features))
    return F.silu(_linear(weights, "sigma_map.mlp.2", hidden))


def _modulation(weights: Weights, name: str, cond: Tensor | None, parts: int) -> list[Any]:
    if cond is None:
        return [0.0, 0.0, 1.0, 0.0, 0.0, 1.0][:parts]
    return list(_linear(weights, f"{name}.adaLN_modulation", cond)[:, None].chunk(parts, -1))


def _attention(weights: Weights, name: str, x: Tensor, num_heads: int) -> Tensor:
    batch, length, width = x.shape
    query, key, value = (
        part.view(batch, length, num_heads, width // num_heads).transpose(1, 2)
        for part in (x @ weights[f"{name}.attn_qkv.weight"].T).chunk(3, -1)
    )
    angles = torch.outer(torch.arange(length).to(x), weights["rotary_emb.inv_freq"])
    query, key = (_rotated(part, angles) for part in (query, key))
    chances = (query @ key.transpose(-1, -2) / math.sqrt(width // num_heads)).softmax(-1)
    return (chances @ value).transpose(1, 2).reshape(batch, length, width)


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def write_mdlm(folder: Path, layout: str = "safetensors", prefix: str = "backbone.") -> Weights:
    """A checkpoint of MDLM for transformers with random weights; what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(TINY, TOKENS, takes_sigma=True)
    (folder / "config.json").write_text(json.dumps(mdlm_config()))
    _save({f"{prefix}{name}": value for name, value in weights.items()}, folder, layout)
    return weights


def write_radd(folder: Path, layout: str = "safetensors") -> Weights:
    """A checkpoint of RADD with random weights; what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(TINY, TOKENS, takes_sigma=False)
    (folder / "config.json").write_text(json.dumps(radd_config()))
    _save(weights, folder, layout)
    return weights


def _save(weights: Weights, folder: Path, layout: str) -> None:
    if layout == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors")


def sedd_log_score(weights: Weights, xt: Tensor, num_heads: int, sigma: Tensor) -> Tensor:
    """The log score [B, L, V] of the SEDD that MDLM's code trains."""
    outputs = network(weights, xt, num_heads, sigma)
    scores = outputs - (sigma.expm1().log() + math.log(outputs.shape[-1] - 1))[:, None, None]
    return scores.scatter(-1, xt[..., None], 0.0)


def lightning_config(repository: str = "mdlm", kind: str = "mdlm") -> dict[str, Any]:
    """What a repository's configuration says of its MDLM or its SEDD, the lesser part left out.

    Args:
        repository: `mdlm`, `bd3lms` or `duo`.
        kind: `mdlm` or `sedd`.
    """
    score = "score" if repository == "duo" else "sedd"
    denoiser = {
        "backbone": "dit",
        "parameterization": "subs" if kind == "mdlm" else score,
        "time_conditioning": kind == "sedd",
        "T": 0,
    }
    nested = denoiser | {"name": kind, "causal_attention": False, "ignore_bos": False}
    if repository == "bd3lms":
        nested |= {"cross_attn": False, "var_min": False, "sampler": "semi_ar"}
    loglinear = {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20}
    model = {"name": "tiny", "type": "ddit", "dropout": 0.1, "scale_by_sigma": True, **TINY}
    return {
        "mode": "train",
        "diffusion": "absorbing_state",
        "seed": 1,
        "loader": {"global_batch_size": 512, "batch_size": "${div_up:${.global_batch_size}, 8}"},
        "sampling": {"predictor": "ddpm_cache", "steps": 128},
        "training": {"ema": 0.9999, "antithetic_sampling": True, "sampling_eps": 1e-3},
        "data": {"train": "openwebtext-train", "tokenizer_name_or_path": "gpt2", "wrap": True},
        "callbacks": {"tags": ["${noise.type}", "${data.train}"]},
        "noise": {"type": "log-linear", "eps": 1e-3} if repository == "duo" else loglinear,
        "model": model | {"tie_word_embeddings": False},
        **(denoiser if repository == "mdlm" else {"algo": nested}),
    }


def write_lightning(
    path: Path,
    config: Any,
    *,
    averages: bool = True,
    prefix: str = "backbone.",
    tokenizer: Any = None,
    **more: Any,
) -> Weights:
    """A checkpoint as Lightning writes it of MDLM's code; the weights that it is to be read as.

    Args:
        path: of the file.
        config: the configuration inside.
        averages: averaged weights of their own; else the raw ones are the model's.
        prefix: before each name.
        tokenizer: the object beside the configuration.
        more: other keys of the file, or the same in other words.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = random_weights(TINY, TOKENS, takes_sigma=True)
    raw = random_weights(TINY, TOKENS, takes_sigma=True, seed=1) if averages else weights
    shadow = [value for name, value in weights.items() if name != "rotary_emb.inv_freq"]
    moments = {"step": torch.tensor(7.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    progress = {"total": {"ready": 7, "completed": 7}, "current": {"ready": 7, "completed": 7}}
    state = {
        "epoch": 0,
        "global_step": 7,
        "pytorch-lightning_version": "2.2.1",
        "state_dict": OrderedDict({f"{prefix}{name}": value for name, value in raw.items()}),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": progress}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(3.5)}},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"lr": 3e-4}]}],
        "lr_schedulers": [{"base_lrs": [3e-4], "lr_lambdas": [{}]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"config": config, "tokenizer": tokenizer},
        "sampler": {"random_state": torch.Generator().get_state()},
    }
    if averages:
        state["ema"] = {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow}
    torch.save(state | more, path)
    return weights
