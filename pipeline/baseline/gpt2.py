"""The autoregressive baseline: transformers' GPT-2 on the same blocks, its likelihood exact."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from pipeline.config.training import Transformer
from pipeline.errors import CheckpointError, read_by_library
from pipeline.files import copy_whole, scratch_folder, sha256, tensors_written
from pipeline.scale.units import UNKEPT, Result, Units

if TYPE_CHECKING:
    from pipeline.scale.world import World

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

# A batch goes through the network in so many parts of like length, each cut at its longest
# block: with names of 7 tokens in blocks of 16 a step takes 0.14 s instead of 0.21.
NUM_PARTS = 3


def new_baseline(
    sizes: Transformer,
    *,
    vocab_size: int,
    length: int,
    start_id: int,
    mode: str,
    seed: int,
    device: torch.device,
) -> GPT2LMHeadModel:
    """A GPT-2 with fresh weights.

    Args:
        sizes: width, depth, heads and dropout.
        vocab_size: the tokenizer's.
        start_id: what it reads before a block: eos, which also ends one of mode `pad`, or an id of
            its own, which it is never asked for.
        length: tokens a block; with that before it and its last token only predicted, the network
            reads as many.
        mode: how blocks were packed, `pad` or another; it decides the tokens that are scored.
        seed: of the weights; the same on every device.
    """
    values = {
        "vocab_size": max(vocab_size, start_id + 1),
        "n_positions": length,
        "n_embd": sizes.width,
        "n_layer": sizes.num_blocks,
        "n_head": sizes.num_heads,
        "resid_pdrop": sizes.dropout,
        "embd_pdrop": sizes.dropout,
        "attn_pdrop": sizes.dropout,
        # The same function as GPT-2's own gelu_new, in one kernel.
        "activation_function": "gelu_pytorch_tanh",
        "bos_token_id": start_id,
        "eos_token_id": start_id,
        "block_mode": mode,
    }
    torch.manual_seed(seed)
    return _on(device, GPT2LMHeadModel(GPT2Config.from_dict(values)))


class NextToken:
    """Next-token prediction as something to train: nats a block, exact and without randomness."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        self.module = model

    def divided(self) -> list[nn.Module]:
        """See Objective."""
        return list(self.module.transformer.h)

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Nothing is random; x0 [B, L] itself."""
        return (x0,)

    def located(self, *drawn: Tensor) -> tuple[Tensor, ...]:
        """The blocks x0 [b, L], and what `in_parts` makes of them."""
        (x0,) = drawn
        return x0, *in_parts(self.module, x0)

    def loss(self, *drawn: Tensor) -> Tensor:
        """Nats, a scalar: the sum over the scored tokens of x0 [b, L]."""
        x0, *parts = drawn
        return _nats(self.module, parts or in_parts(self.module, x0)).sum()

    def finish_step(self, of_all: object = None) -> None:
        """Clear the gradients of the weights."""
        self.module.zero_grad()


@torch.inference_mode()
def block_nats(
    model: GPT2LMHeadModel,
    blocks: npt.NDArray[Any],
    *,
    batch_size: int,
    units: "Units | World" = UNKEPT,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Exact negative log likelihood of each block, its start token before it.

    With `pad`, every token through the first eos counts (every token of a block without one);
    with other modes, every token.

    Args:
        blocks: token ids [N, L], perhaps a memory map.
        units: how batches are gone through.
    Returns:
        nats [N] and the number of tokens scored [N].
    """
    rows = torch.split(torch.arange(len(blocks)), batch_size)
    num_scored = torch.cat([scored_tokens(model, _ids(blocks, each)) for each in rows])
    # Blocks of like length share a batch, so that little of it is padding.
    batches = torch.split(num_scored.argsort(stable=True, descending=True), batch_size)

    def nats(index: int) -> Result:
        parts = in_parts(model, _ids(blocks, batches[index]))
        parts = tuple(each.to(model.device) for each in parts)
        return {"nats": _nats(model, parts, torch.float64).cpu()}

    found = units.in_order(len(batches), nats)
    total = torch.empty(len(blocks), dtype=torch.float64)
    total[torch.cat(batches)] = torch.cat([each["nats"] for each in found])
    return total.numpy(), num_scored.numpy()


def _ids(blocks: npt.NDArray[Any], rows: Tensor) -> Tensor:
    return torch.from_numpy(blocks[rows.numpy()].astype(np.int64))


def scored_tokens(model: GPT2LMHeadModel, x0: Tensor) -> Tensor:
    """How many tokens of each block x0 [B, L] are scored, counted from its start [B]."""
    length = x0.shape[1]
    if _setting(model, "block_mode") != "pad":
        return torch.full((len(x0),), length, device=x0.device)
    is_eos = x0.eq(_setting(model, "eos_token_id"))
    return torch.where(is_eos.any(dim=1), is_eos.int().argmax(dim=1) + 1, length)


def in_parts(model: GPT2LMHeadModel, x0: Tensor) -> tuple[Tensor, ...]:
    """Blocks x0 [B, L] by length, in parts, each cut at its longest.

    A GPU would have to be waited for to learn how long that is: find it on the CPU.

    Returns:
        which block comes at each place [B]; then of each part its tokens [b, l], and the places [N]
        among b * l that are scored.
    """
    num_scored = scored_tokens(model, x0)
    order = num_scored.argsort(stable=True)
    parts = [order]
    for rows in order.chunk(NUM_PARTS):
        longest = int(num_scored[rows].max())
        scored = torch.arange(longest, device=x0.device) < num_scored[rows, None]
        parts += [x0[rows, :longest], scored.flatten().nonzero().squeeze(-1)]
    return tuple(parts)


def save_baseline(folder: Path, model: GPT2LMHeadModel, *, tokenizer: Path) -> str:
    """Write `model` as transformers does, with its tokenizer; returns the weights' SHA-256.

    Each file appears whole or not at all, the weights last.
    """
    with scratch_folder() as temporary:
        quiet: Any = logging.disable_progress_bar
        quiet()
        with tensors_written(temporary):
            model.save_pretrained(temporary)
        files = {path.name: path for path in sorted(temporary.iterdir())}
        files |= {name: tokenizer / name for name in TOKENIZER_FILES}
        weights = files.pop(WEIGHTS)
        # Earlier weights must not stand beside the new config for a moment.
        (folder / WEIGHTS).unlink(missing_ok=True)
        for name, path in [*files.items(), (WEIGHTS, weights)]:
            copy_whole(path, folder / name)
    return sha256(folder / WEIGHTS)


def load_baseline(folder: Path, device: torch.device) -> GPT2LMHeadModel:
    """Read what `save_baseline` wrote, in eval mode on `device`.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the config.
    """
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"no baseline in {folder}: {WEIGHTS} is missing")
    with read_by_library(f"the baseline in {folder} is damaged"):
        config = GPT2Config.from_pretrained(folder, local_files_only=True)
        if not hasattr(config, "block_mode"):
            raise ValueError(f"{CONFIG} has no block_mode, it is not one of this project")
        model = GPT2LMHeadModel(config)
        load_model(model, folder / WEIGHTS)
    return _on(device, model)


def check_baseline(folder: Path, *, tokenizer_sha256: str, length: int) -> None:
    """Refuse a baseline that was trained on other tokens or shorter blocks.

    Args:
        tokenizer_sha256: hash of the tokenizer.json that made the blocks.
        length: their tokens.
    Raises:
        CheckpointError: the baseline is missing, or of another tokenizer or length.
    """
    with read_by_library(f"no baseline in {folder}"):
        own = sha256(folder / "tokenizer.json")
        config = GPT2Config.from_pretrained(folder, local_files_only=True)
    if own != tokenizer_sha256:
        raise CheckpointError(
            f"the baseline in {folder} was trained with tokenizer {own[:12]}, this one is "
            f"{tokenizer_sha256[:12]}"
        )
    if config.n_positions != length:
        raise CheckpointError(
            f"the baseline in {folder} was trained on blocks of {config.n_positions} tokens, "
            f"these have {length}"
        )


def _nats(
    model: GPT2LMHeadModel, parts: Sequence[Tensor], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Nats [b] of blocks `in_parts`, summed in `dtype`, each where it stood before."""
    order, *rest = parts
    nats = [_part_nats(model, x0, at, dtype) for x0, at in zip(rest[::2], rest[1::2], strict=True)]
    return torch.cat(nats)[order.argsort()]


def _part_nats(model: GPT2LMHeadModel, x0: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """Nats [b] of the tokens of x0 [b, l] at the places [N] among b * l."""
    starts = torch.full_like(x0[:, :1], _setting(model, "eos_token_id"))
    inputs = torch.cat([starts, x0[:, :-1]], dim=1)
    hidden = model.transformer(inputs, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1).index_select(0, at))
    nll = F.cross_entropy(logits.float(), x0.flatten().index_select(0, at), reduction="none")
    by_token = nll.new_zeros(x0.numel(), dtype=dtype).index_copy(0, at, nll.to(dtype))
    return by_token.view(x0.shape).sum(dim=1)


def _on(device: torch.device, model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """`model` on `device` in eval mode; transformers' own `to` and `eval` have no types."""
    nn.Module.to(model, device)
    nn.Module.eval(model)
    return model


def _setting(model: GPT2LMHeadModel, name: str) -> Any:
    """A value of the model's config, which transformers types loosely."""
    return getattr(model.config, name)
