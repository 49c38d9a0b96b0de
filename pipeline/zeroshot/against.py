"""An autoregressive model on the same blocks: its exact likelihood, paired block by block."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.tokenizer import TextTokenizer, small_text
from pipeline.errors import CheckpointError
from pipeline.evaluation.causal import CausalLM, load_causal
from pipeline.evaluation.scorer import HUB, HUB_FILES, encoding_of, weights_sha256
from pipeline.files import from_root
from pipeline.hub import from_hub
from pipeline.kernels.precision import Precision
from pipeline.methods.estimates import rate
from pipeline.scale.units import UNKEPT, Result, Units
from pipeline.zeroshot.blocks import Blocks, Ints
from pipeline.zeroshot.protocols import Protocol
from pipeline.zeroshot.scoring import Counts, bits_per_byte, in_units

MAX_TOKENS = 4096
"""Tokens in a forward, more only in one of a single block."""


@dataclass(frozen=True)
class Against:
    """A causal model of the same tokens, known by its name and its weights' hash.

    Attributes:
        key: what named it, for messages.
    """

    key: str
    name: str
    sha256: str
    model: CausalLM


def load_against(
    name: str,
    tokenizer: TextTokenizer,
    *,
    key: str,
    device: torch.device,
    precision: Precision,
    commit: str | None = None,
) -> Against:
    """The model that `key` names: gpt2, gpt2-large, or the folder of a transformers model.

    Args:
        commit: of a model of the hub; the newest if None.
    Raises:
        PipelineError: it is not here.
        CheckpointError: its files are damaged, or it is of other tokens than the blocks.
        DataError: its tokenizer.json is damaged.
    """
    folder = from_root(name)
    if name in HUB:
        advice = "give the folder of a model"
        folder = from_hub(name, HUB_FILES, key=key, instead=advice, revision=commit)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{key}: {folder} holds no transformers model (got {name}); use {', '.join(HUB)}, or a "
            "folder with config.json, *.safetensors and tokenizer.json"
        )
    _check_vocabulary(folder, tokenizer, key)
    model = load_causal(folder, device, precision)
    if model.vocab_size < tokenizer.size:
        raise CheckpointError(
            f"{key}: the model in {folder} knows {model.vocab_size:,} tokens, and the blocks are "
            f"of {tokenizer.size:,}"
        )
    return Against(key, name if name in HUB else folder.name, weights_sha256(folder), model)


def _check_vocabulary(folder: Path, tokenizer: TextTokenizer, key: str) -> None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{key}: {path} is missing: which tokens the model is of is not said")
    theirs, ours = (
        encoding_of(text, f"{key}: {path}") for text in (small_text(path), tokenizer.definition)
    )
    if theirs != ours:
        raise CheckpointError(
            f"{key}: the model in {folder} has another vocabulary, of "
            f"{len(theirs['model']['vocab']):,} tokens, than the blocks, of {tokenizer.size:,}: "
            "only models of the same tokens are paired"
        )


@torch.inference_mode()
def block_nats(
    against: Against, blocks: Blocks, protocol: Protocol, eos_id: int, units: Units = UNKEPT
) -> Tensor:
    """Exact nats of each block [N], of what `after_a_start` says is scored, float64.

    Raises:
        CheckpointError: the model reads fewer tokens, or gives no finite likelihood.
    """
    start = [eos_id] if protocol.keeps_all else []
    batches: list[Ints] = []
    for group in blocks.by_length():
        ids = np.insert(group, 0, start, axis=1) if start else group
        read = ids.shape[1] - 1
        if read > (against.model.max_tokens or read):
            raise CheckpointError(
                f"{against.key}: {against.name} reads {against.model.max_tokens:,} tokens at most, "
                f"and the blocks take {read:,}"
            )
        size = max(1, MAX_TOKENS // max(1, read))
        batches += [ids[first : first + size] for first in range(0, len(ids), size)]

    def nats(index: int) -> Result:
        ids = torch.from_numpy(batches[index].astype(np.int64)).to(against.model.device)
        states = against.model.states(list(ids[:, :-1]))
        found = against.model.nats(states, ids[:, 1:].flatten()).double()
        return {"nats": found.view(len(ids), -1).sum(-1)}

    units = units.named("against", f"likelihood of {against.name}")
    total = torch.cat([each["nats"] for each in units.in_order(len(batches), nats)])
    if not total.isfinite().all():
        raise CheckpointError(
            f"{against.key}: {against.name} gives no finite likelihood: it is damaged"
        )
    return total


def after_a_start(protocol: Protocol) -> Protocol:
    """What is scored of a block: all after an eos under `exact`, else all but its first token.

    Nothing stands before that one, so that no autoregressive model can say what it costs.
    """
    return replace(protocol, num_known=0 if protocol.keeps_all else 1)


def compared(
    nats: Tensor, count: Counts, exact: Tensor, exact_count: Counts, against: Against
) -> dict[str, Any]:
    """Figures of the other model, and ours [R, N] less its [N], with the error of the pairs."""
    # A token of the one model and one of the other weigh the same in all blocks.
    scale = count.tokens.sum() / exact_count.tokens.sum()
    gap = rate(nats - exact * scale, count.tokens)
    return {
        "name": against.name,
        "sha256": against.sha256,
        **in_units(rate(exact[None], exact_count.tokens)),
        "bits_per_byte": bits_per_byte(exact[None], exact_count),
        "num_tokens": int(exact_count.tokens.sum()),
        "difference_nats_per_token": gap.value,
        "difference_stderr": gap.stderr,
    }
