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

from benchmarks.shapes import config_of
from benchmarks.train import settings_of
from pipeline.device import training_bytes
from pipeline.kernels import row_tiles
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.methods.sedd.model import SEDD
from pipeline.training.loop import Trainer
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


def most_held(model: SEDD, batch: int) -> int:
    """Bytes at the most in a training step that is not the first, counted."""
    sizes = batch, model.length
    blocks = np.random.default_rng(0).integers(model.config.vocab_size, size=sizes, dtype="uint32")
    settings = settings_of("gpt2", batch_size=batch, precision="bfloat16")
    with emulated_cuda(place="meta"), Held() as held:
        trainer = Trainer(ScoreEntropy(model.to(DEVICE)), settings, DEVICE)
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


def test_the_page_has_it():
    rows = []
    for size in ("small", "medium"):
        for variant in (ABSORB, RAW):
            network = model_of(size, *variant).network
            million = sum(each.numel() for each in network.parameters()) / 1e6
            figures = []
            for batch, checkpointing in ((8, False), (32, False), (64, False), (64, True)):
                network.activation_checkpointing = checkpointing
                held = training_bytes(network, batch * 1024, everywhere=False)
                figures.append(f"{held / 1e9:.0f}")
            rows.append(f"| {size}, {variant[1]} | {million:.0f} M | {' | '.join(figures)} |")
    page = (Path(__file__).parents[1] / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in page, "\n".join(rows)
