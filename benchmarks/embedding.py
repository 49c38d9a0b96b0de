"""Embedding diffusion at V = 50,257: training steps, and sampling by ddim."""

from typing import Any

import torch
from torch import Tensor

from benchmarks import shapes
from benchmarks.flops import TRAINING, Shape
from benchmarks.machine import Machine
from benchmarks.measure import Facts, Measured, Side, Step, interleaved
from benchmarks.plain_embedding import plain_loss, plain_model, plain_sample
from benchmarks.plain_training import PlainTrainer
from benchmarks.rows import Check, Plan, Row, at_least, floor_text, rate
from benchmarks.shapes import perturbed
from benchmarks.train import (
    BATCH,
    LARGE_VOCAB,
    PASSES,
    beyond_gradients,
    our_steps,
    plain_steps,
    settings_of,
)
from pipeline.methods.embedding.loss import Denoising
from pipeline.methods.embedding.model import EmbeddingConfig, EmbeddingDiffusion
from pipeline.methods.embedding.sampler import sample

NUM, NUM_STEPS = 4, 16
TRAIN_BAR, MEMORY_BAR, SAMPLE_BAR = 1.3, 5, 1.2
"""How many times better ours must be."""


def config_of(vocab_size: int | None = None) -> EmbeddingConfig:
    """The model of the size gpt2, perhaps of another vocabulary."""
    sizes = shapes.SIZES["gpt2"] | ({} if vocab_size is None else {"vocab_size": vocab_size})
    return EmbeddingConfig(
        cond_dim=None,
        dropout=0.0,
        dim=32,
        norm="l2",
        input="evidence",
        loss="half",
        clock="nats",
        g_min=-5.0,
        g_max=6.0,
        self_condition=0.25,
        known=0.5,
        **sizes,
    )


def train_plain() -> Step:
    """A plain training step."""
    model = perturbed(plain_model(config_of()))
    drawing = Denoising(model)

    def loss(x0: Tensor, generator: torch.Generator) -> Tensor:
        model.clock.learn()
        return plain_loss(model, *drawing.draw(x0, generator)) / len(x0)

    return plain_steps(PlainTrainer(model, loss, settings_of("gpt2")), "gpt2")


def train_ours(vocab_size: int | None = None, compiled: bool = True) -> Step:
    """A training step of the product."""
    model = perturbed(EmbeddingDiffusion(config_of(vocab_size)))
    if compiled:
        model.network.compile_blocks()
    return our_steps(Denoising(model), "gpt2", vocab_size)


def sample_plain() -> Step:
    """Plain sampling."""
    model, generator = perturbed(plain_model(config_of())).eval(), torch.Generator().manual_seed(0)

    def run() -> Facts:
        plain_sample(model, NUM, NUM_STEPS, generator)
        return {}

    return run


def sample_ours() -> Step:
    """Sampling as the product does it."""
    model = perturbed(EmbeddingDiffusion(config_of())).eval()
    generator = torch.Generator().manual_seed(0)

    def run() -> Facts:
        sample(model, NUM, num_steps=NUM_STEPS, predictor="ddim", generator=generator)
        return {}

    return run


def forward_flops(rows: int) -> float:
    """Operations of a network call on rows of L positions.

    Evidence is a product with the vectors of all tokens, what it mixes one with their embeddings,
    and what is expected once more one with the vectors.
    """
    config = config_of()
    shape = Shape(config.width, config.num_blocks, config.vocab_size, config.length, cond_dim=None)
    products = rows * config.length * config.vocab_size * (2 * config.dim + config.width)
    return shape.forward(rows) + 2 * products


def train_flops() -> float:
    """Operations of a training step, of whose rows a share gets an estimate first."""
    return (TRAINING + config_of().self_condition) * forward_flops(BATCH["gpt2"])


def weight_bytes() -> int:
    """Of all weights."""
    with torch.device("meta"):
        model = EmbeddingDiffusion(config_of())
    return sum(parameter.nbytes for parameter in model.parameters())


def row_of(
    name: str,
    unit: str,
    sides: dict[str, Measured],
    machine: Machine,
    amount: float,
    flops: float,
    moved: float,
    checks: tuple[Check, ...],
    notes: tuple[str, ...] = (),
) -> Row:
    """A row of two sides that do as much arithmetic, and of the bytes that ours moves at least."""
    plain, ours = sides["plain"], sides["ours"]
    return Row(
        name,
        unit,
        checks,
        ours=rate(ours, amount, machine, flops),
        plain=rate(plain, amount, machine, flops),
        floor=floor_text(machine.during(ours.flops), flops, moved, ours.median),
        notes=notes,
    )


def side_of(side: str, **settings: Any) -> Side:
    """A side; a step is timed after another."""
    return Side(f"benchmarks.embedding:{side}", settings, lead=1 if side.startswith("train") else 0)


def train_gpt2_embedding(plan: Plan, machine: Machine) -> list[Row]:
    """The row train_gpt2_embedding."""
    sides = {side: side_of(f"train_{side}") for side in ("plain", "ours")}
    found = interleaved(sides, plan.runs(5, 1), on_run=plan.on_run)
    large = side_of("train_ours", vocab_size=LARGE_VOCAB)
    [at_large] = interleaved({"large": large}, 1, on_run=plan.on_run).values()
    held, plain_held, large_held = (
        beyond_gradients(side).median for side in (found["ours"], found["plain"], at_large)
    )
    checks = (
        at_least(found["plain"].median / found["ours"].median, TRAIN_BAR),
        Check(f"memory at most 1/{MEMORY_BAR}", held <= plain_held / MEMORY_BAR),
    )
    note = (
        f"beyond weights, gradients and optimiser {held:,.0f} MB (plain {plain_held:,.0f} MB); at "
        f"V = {LARGE_VOCAB:,} {large_held:,.0f} MB ({large_held / held:.2f}x)"
    )
    tokens, moved = BATCH["gpt2"] * config_of().length, PASSES * weight_bytes()
    return [
        row_of(
            "train_gpt2_embedding", "tokens/s", found, machine, tokens, train_flops(), moved,
            checks, ("ours with train.compile", note),
        )
    ]  # fmt: skip


def sample_gpt2_embedding(plan: Plan, machine: Machine) -> list[Row]:
    """The row sample_gpt2_embedding."""
    sides = {side: side_of(f"sample_{side}") for side in ("plain", "ours")}
    found = interleaved(sides, plan.runs(3, 1), warm_up=False, on_run=plan.on_run)
    calls = NUM_STEPS + 1
    return [
        row_of(
            "sample_gpt2_embedding", "samples/s", found, machine, NUM,
            calls * forward_flops(NUM), calls * weight_bytes(),
            (at_least(found["plain"].median / found["ours"].median, SAMPLE_BAR),),
        )
    ]  # fmt: skip
