"""Weights of RADD's network by x0 on masks, as weights of the network that is one here."""

from torch import Tensor


def without_mask(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the output of the mask, the last one: the chance of a token is its share of tokens'.

    Args:
        weights: of a network with as many outputs as states [V, D].
    """
    head = ("output_layer.linear.weight", "output_layer.linear.bias")
    return weights | {name: weights[name][:-1].clone() for name in head}
