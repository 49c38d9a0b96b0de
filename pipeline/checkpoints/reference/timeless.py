"""Weights of others' networks by x0 on masks, as weights of the network that is one here."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.network.layers import SigmaEmbedding

Weights = dict[str, Tensor]
TIME = "sigma_map.", "adaLN_modulation."


def without_time(weights: Weights) -> Weights:
    """Of a network that is always told sigma 0: what is made of it becomes part of the weights.

    A norm, times 1 + scale, plus shift, is one with another weight, and a bias; a gate times a
    linear map is another map. Computed in float64, and rounded once, to what weights are.
    """
    cond = _cond(weights)
    kept = {name: value for name, value in weights.items() if not any(t in name for t in TIME)}

    def shift_and_scale(norm: str, shift: Tensor, scale: Tensor) -> None:
        weight = kept[f"{norm}.weight"]
        kept[f"{norm}.weight"] = (weight * (1 + scale)).to(weight.dtype)
        kept[f"{norm}.bias"] = shift.to(weight.dtype)

    def gate(name: str, by: Tensor) -> None:
        value = kept[name]
        # Of rows, as outputs are gated.
        kept[name] = (value * by.view(-1, *[1] * (value.dim() - 1))).to(value.dtype)

    for block in [name.removesuffix(".norm1.weight") for name in kept if ".norm1." in name]:
        shift1, scale1, gate1, shift2, scale2, gate2 = _modulation(weights, block, cond).chunk(6)
        shift_and_scale(f"{block}.norm1", shift1, scale1)
        gate(f"{block}.attn_out.weight", gate1)
        shift_and_scale(f"{block}.norm2", shift2, scale2)
        gate(f"{block}.mlp.2.weight", gate2)
        gate(f"{block}.mlp.2.bias", gate2)
    shift_and_scale("output_layer.norm_final", *_modulation(weights, "output_layer", cond).chunk(2))
    return kept


def without_mask(weights: Weights) -> Weights:
    """Without the output of the mask, the last one: the chance of a token is its share of tokens'.

    Args:
        weights: of a network with as many outputs as states [V, D].
    """
    head = ("output_layer.linear.weight", "output_layer.linear.bias")
    return weights | {name: weights[name][:-1].clone() for name in head}


def _cond(weights: Weights) -> Tensor:
    """What shifts, scales and gates come from [C] at sigma 0, in float64."""
    prefix = "sigma_map."
    embedding = SigmaEmbedding(len(weights[f"{prefix}mlp.2.bias"])).double()
    embedding.load_state_dict(
        {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
    )
    with torch.no_grad():
        return F.silu(embedding(torch.zeros(1, dtype=torch.float64)))[0]


def _modulation(weights: Weights, name: str, cond: Tensor) -> Tensor:
    weight, bias = (weights[f"{name}.adaLN_modulation.{part}"] for part in ("weight", "bias"))
    return weight.double() @ cond + bias.double()
