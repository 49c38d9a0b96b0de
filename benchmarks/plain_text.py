"""Packing and scoring in their plain formulation."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F


def plain_pack(
    parquet: Path, column: str, tokenizer: Any, length: int, cache: Path, num_processes: int = 2
) -> Any:
    """Blocks of `length` tokens by two maps of `datasets`, on disk in its cache.

    Each map's batch of 1,000 documents becomes blocks of its own, and loses its tail.

    Args:
        parquet: the documents.
        column: that holds their text.
        tokenizer: of transformers.
        length: tokens a block.
        cache: folder of the files that are written.
        num_processes: of each map.
    Returns:
        the dataset, with a column of blocks.
    """
    import datasets

    datasets.disable_progress_bars()
    documents = datasets.Dataset.from_parquet(str(parquet), cache_dir=str(cache), columns=[column])

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = tokenizer(batch[column], return_attention_mask=False, verbose=False)["input_ids"]
        return {"ids": [[*row, tokenizer.eos_token_id] for row in ids]}

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        stream = list(chain.from_iterable(batch["ids"]))
        whole = len(stream) // length * length
        return {"ids": [stream[start : start + length] for start in range(0, whole, length)]}

    encoded = documents.map(
        encode,
        batched=True,
        num_proc=num_processes,
        remove_columns=[column],
        load_from_cache_file=False,
    )
    return encoded.map(group, batched=True, num_proc=num_processes, load_from_cache_file=False)


@torch.no_grad()
def plain_score(model: Any, texts: list[list[int]], start_id: int) -> npt.NDArray[np.float64]:
    """Nats of each text [N] by a causal model of transformers, one text after another."""
    nats = []
    for ids in texts:
        sequence = torch.tensor([[start_id, *ids]])
        logits = model(sequence[:, :-1], use_cache=False).logits[0]
        nll = F.cross_entropy(logits.float(), sequence[0, 1:], reduction="none")
        nats.append(nll.double().sum().item())
    return np.array(nats)
