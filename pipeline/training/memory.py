"""Memory that training takes on a GPU, by arithmetic: docs/gpu.md."""

from typing import TYPE_CHECKING

from pipeline.kernels.tiles import tile_shape

if TYPE_CHECKING:
    from pipeline.network.trunk import Trunk

HELD, GRADIENT = 16, 4
"""Bytes a parameter: weights, averages and two moments; and its gradient, all in float32."""
KEPT, KEPT_WITH_SIGMA = 40, 56
"""Bytes x width that a token leaves in a block for the backward pass, in bfloat16; the second of a
network that is told the noise, with what shifts, scales and gates."""
KEPT_OF_DROPOUT, KEPT_OF_X, MODULATION = 2, 4, 32
"""The same of what dropout leaves out, of what a block gets, and of what shifts, scales and gates
each position that has a loss, or a head that is not fused."""
WEIGHT, NARROW = 4, 2
"""Bytes a parameter, while it computes, of weights that ranks divide, and of a copy in bfloat16."""
OUTPUT, OUTPUT_OF_MEANS, OUTPUT_OF_IDS = 2, 10, 6
"""Bytes of one of the head's outputs where passes over a tile are fused, as in SEDD's; and where
they are not, as in embedding diffusion's, of whose means there is a loss, or of its ids alone."""


def training_bytes(
    network: "Trunk",
    num_tokens: int,
    *,
    everywhere: bool,
    of_output: int = OUTPUT,
    num_pieces: int = 1,
    in_order: bool = True,
    num_ranks: int = 1,
    divided: bool = False,
) -> int:
    """Bytes that training in bfloat16 takes on a GPU at the most.

    Args:
        network: of the model, perhaps without memory, on the meta device.
        num_tokens: of the batch's piece that is computed at once, its blocks times their length.
        everywhere: whether every position has a loss, and not masks alone, half of them.
        of_output: bytes that one of the head's outputs takes while a tile of them is computed.
        num_pieces: of a rank, a step.
        in_order: whether these are summed as `train.reduction: fixed` does.
        num_ranks: side by side, each on a GPU.
        divided: whether each of them holds a part of every weight, and not all.
    """
    num_params = sum(each.numel() for each in network.parameters())
    first, num_blocks = network.blocks[0], len(network.blocks)
    num_outputs, width = network.head.weight.shape
    with_loss = num_tokens if everywhere else num_tokens // 2
    at_once, _ = tile_shape(with_loss, num_outputs, "cuda")
    tile = of_output * num_outputs * at_once
    kept = KEPT if first.adaLN_modulation is None else KEPT_WITH_SIGMA
    modulation = MODULATION * width * with_loss
    if first.adaLN_modulation is None and of_output == OUTPUT:
        modulation = 0
    kept = width * num_tokens * (kept + KEPT_OF_DROPOUT * bool(first.dropout))
    # Sums that `PartialSums` puts by; a gradient that is added to another is beside it at least.
    num_sums = (num_pieces & -num_pieces).bit_length() - 1 if in_order else 0
    gradients, num_sums = GRADIENT * num_params, max(num_sums, int(num_pieces > 1))
    held = HELD * num_params + num_sums * gradients
    if divided:
        held, gradients = held // num_ranks, gradients // num_ranks
        held += _gathered_bytes(network, num_params)
    elif num_ranks > 1 and num_pieces > 1:
        held += gradients  # What is sent is a copy.
    held += modulation
    if not network.activation_checkpointing:
        return held + gradients + kept * num_blocks + tile
    # What blocks get is given up as their gradients come, and the tile before.
    rows = KEPT_OF_X * width * num_tokens * num_blocks + GRADIENT * network.head.weight.numel()
    return held + max(gradients, rows) + max(kept, tile)


def _gathered_bytes(network: "Trunk", num_params: int) -> int:
    """Of weights that are divided: what of them is whole at once, with its gradients.

    The next layer comes while one computes; what is in none stays for a whole piece.
    """
    layers = [sum(each.numel() for each in layer.parameters()) for layer in network.divided()]
    gathered = (WEIGHT + GRADIENT) * (num_params - sum(layers))
    gathered += (2 * WEIGHT + GRADIENT) * max(layers, default=0)
    narrow = max(layers, default=0) if network.activation_checkpointing else num_params
    return gathered + NARROW * narrow
