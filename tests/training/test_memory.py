"""Memory of training on a GPU: what is calculated, against every tensor of a step, counted."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_cuda import DEVICE, Emulated, emulated_cuda
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from benchmarks import embedding
from benchmarks.shapes import SIZES, config_of
from benchmarks.train import settings_of
from pipeline.kernels import row_tiles
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
from pipeline.methods.sedd.model import SEDD
from pipeline.network.trunk import Trunk
from pipeline.training.loop import Trainer
from pipeline.training.memory import OUTPUT_OF_IDS, OUTPUT_OF_MEANS, training_bytes
from pipeline.training.schedule import Order


class Held(TorchDispatchMode):
    """Bytes that tensors of the device hold, now and at the most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Else it would be taken for a call of the project's own.
        with torch._C.DisableTorchFunction():
            found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Emulated):
                self._note(leaf.untyped_storage())
        return found

    def _note(self, memory: torch.UntypedStorage) -> None:
        if memory in self._known:
            return
        self._known[memory] = True
        self._add(memory.nbytes())
        weakref.finalize(memory, self._add, -memory.nbytes())

    def _add(self, num: int) -> None:
        self.now += num
        self.most = max(self.most, self.now)


def fused_price(outputs: Tensor, *others: Any) -> Tensor:
    """What torch.compile makes of a criterion keeps outputs nowhere else."""
    return outputs.new_zeros(len(outputs), dtype=torch.float32)


@pytest.fixture
def fused(monkeypatch):
    monkeypatch.setattr(row_tiles, "fuses", lambda device: True)
    monkeypatch.setattr(row_tiles, "fused", lambda: fused_price)


def model_of(size: str, graph: str, parameterization: Any, dropout: float = 0.0) -> SEDD:
    """Without memory."""
    config = replace(config_of(size, parameterization), graph=graph, dropout=dropout)
    with torch.device("meta"):
        return SEDD(config).train()


def most_held(model: Model, batch: int, **changes: Any) -> int:
    """Bytes at the most in a training step that is not the first, counted."""
    sizes = batch, model.length
    blocks = np.random.default_rng(0).integers(model.config.vocab_size, size=sizes, dtype="uint32")
    settings = settings_of("gpt2", batch_size=batch, precision="bfloat16", **changes)
    with emulated_cuda(place="meta"), Held() as held:
        trainer = Trainer(method_of(model).objective(model.to(DEVICE)), settings, DEVICE)
        for _ in range(2):
            held.most = 0
            trainer.train_step(blocks, Order(batch, 0))
    return held.most


ABSORB, RAW, UNIFORM = ("absorb", "conditional"), ("absorb", "raw"), ("uniform", "raw")
CASES = [
    ("char", RAW, 0.0, 64, False),
    *[("gpt2", variant, 0.0, 8, False) for variant in (ABSORB, RAW, UNIFORM)],
    ("gpt2", RAW, 0.0, 8, True),
    ("small", ABSORB, 0.1, 32, False),
]
LONG = [
    *[("char", variant, 0.1, 64, True) for variant in (ABSORB, RAW, UNIFORM)],
    *[
        ("small", ABSORB, 0.0, batch, checkpoints)
        for batch in (8, 64)
        for checkpoints in (False, True)
    ],
    *[("small", RAW, 0.0, 32, checkpoints) for checkpoints in (False, True)],
    *[("small", UNIFORM, 0.1, 64, checkpoints) for checkpoints in (False, True)],
    *[("medium", RAW, 0.1, 32, checkpoints) for checkpoints in (False, True)],
    *[("medium", ABSORB, 0.0, 64, checkpoints) for checkpoints in (False, True)],
]


@pytest.mark.parametrize(
    ("size", "variant", "dropout", "batch", "checkpointing"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG)],
    ids=str,
)
def test_it_is_within_a_tenth_of_what_a_step_holds(
    fused, size, variant, dropout, batch, checkpointing
):
    model = model_of(size, *variant, dropout)
    model.network.activation_checkpointing = checkpointing
    num_tokens, everywhere = batch * model.length, model.graph.mask_id is None
    calculated = training_bytes(model.network, num_tokens, everywhere=everywhere)
    assert calculated == pytest.approx(most_held(model, batch), rel=0.1)


@pytest.mark.parametrize(("reduction", "num_pieces"), [("fixed", 8), ("fast", 8), ("fixed", 3)])
def test_it_is_so_of_batches_in_pieces(fused, reduction, num_pieces):
    model = model_of("gpt2", *ABSORB)
    calculated = training_bytes(
        model.network,
        model.length,
        everywhere=False,
        num_pieces=num_pieces,
        in_order=reduction == "fixed",
    )
    held = most_held(model, num_pieces, accumulate=num_pieces, reduction=reduction)
    assert calculated == pytest.approx(held, rel=0.1)


VECTOR = {"input": "vector", "cond_dim": 128, "loss": "mse_cross_entropy", "clock": "cosine"}


def embedding_of(size: str, **changes: Any) -> EmbeddingDiffusion:
    """Without memory, and of whose texts no token is known."""
    config = replace(embedding.config_of(), known=0.0, **SIZES[size] | changes)
    with torch.device("meta"):
        return EmbeddingDiffusion(config).train()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("size", "batch"),
    [("gpt2", 8), *(pytest.param("small", n, marks=pytest.mark.slow) for n in (8, 32))],
)
@pytest.mark.parametrize(
    ("changes", "of_output"), [({}, OUTPUT_OF_MEANS), (VECTOR, OUTPUT_OF_IDS)], ids=["", "vector"]
)
def test_it_is_so_of_embedding_diffusion(changes, of_output, size, batch, checkpointing):
    model = embedding_of(size, **changes)
    model.network.activation_checkpointing = checkpointing
    calculated = training_bytes(
        model.network, batch * model.length, everywhere=True, of_output=of_output
    )
    assert calculated == pytest.approx(most_held(model, batch), rel=0.1)


def table_row(name: str, network: Trunk, **kind: Any) -> str:
    million = sum(each.numel() for each in network.parameters()) / 1e6
    figures = []
    for batch, checkpointing in ((8, False), (32, False), (64, False), (64, True)):
        network.activation_checkpointing = checkpointing
        figures.append(f"{training_bytes(network, batch * 1024, **kind) / 1e9:.0f}")
    return f"| {name} | {million:.0f} M | {' | '.join(figures)} |"


def test_the_page_has_it():
    rows = []
    for size in ("small", "medium"):
        for variant in (ABSORB, RAW):
            network = model_of(size, *variant).network
            rows.append(table_row(f"{size}, {variant[1]}", network, everywhere=False))
        kind = {"everywhere": True, "of_output": OUTPUT_OF_MEANS}
        rows.append(table_row(f"{size}, embedding", embedding_of(size).network, **kind))
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in page, "\n".join(rows)
