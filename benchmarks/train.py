"""Training steps: the whole of one, from token ids to averaged weights."""

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.flops import TRAINING
from benchmarks.machine import Machine
from benchmarks.measure import Facts, Measured, Side, Step, interleaved
from benchmarks.plain import plain_model
from benchmarks.plain_training import PlainTrainer, plain_loss
from benchmarks.rows import Check, Figure, Plan, Row, at_least, floor_text, rate
from benchmarks.shapes import Parameterization, config_of, perturbed, shape_of
from pipeline.device import has_bfloat16
from pipeline.kernels.gradient_memory import free_gradient_memory
from pipeline.methods.protocol import Objective
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.methods.sedd.model import SEDD
from pipeline.training.loop import Trainer
from pipeline.training.schedule import Order
from pipeline.training.settings import Settings

BATCH = {"gpt2": 8, "char": 256}
LARGE_VOCAB = 100_000
# How training is set where nothing else is said; none of it changes the time of a step.
COMMON: dict[str, Any] = {
    "num_steps": 100_000,
    "accumulate": 1,
    "reduction": "fixed",
    "lr": 3e-4,
    "warmup_steps": 100,
    "decay": "linear",
    "weight_decay": 0.01,
    "beta1": 0.9,
    "beta2": 0.99,
    "clip": 1.0,
    "ema": 0.99,
    "seed": 0,
    "log_every": 100,
    "eval_every": 100,
    "checkpoint_every": 100,
    "precision": "float32",
    "deterministic": False,
}
# Bytes of a weight that a step moves at least: read by the forward and the backward pass; its
# gradient written, read and scaled by the clipping; weight, gradient and two moments read and all
# but the gradient written by the optimiser; weight and average read, average written.
PASSES = 15


def settings_of(size: str, **changes: Any) -> Settings:
    """How training is set at a size, with changes."""
    return Settings(**COMMON | {"batch_size": BATCH[size]} | changes)


def blocks_of(size: str, vocab_size: int | None = None) -> np.ndarray[Any, np.dtype[Any]]:
    """Random token ids [N, L], enough for 64 batches."""
    config, random = config_of(size, "raw", vocab_size), np.random.default_rng(0)
    shape = 64 * BATCH[size], config.length
    return random.integers(config.vocab_size, size=shape, dtype=np.uint32)


def plain(size: str, parameterization: Parameterization, precision: str = "float32") -> Step:
    """A plain training step."""
    model = perturbed(plain_model(config_of(size, parameterization)))
    return plain_steps(PlainTrainer(model, plain_loss(model), settings_of(size), precision), size)


def plain_steps(trainer: PlainTrainer, size: str) -> Step:
    """Its steps on random tokens."""
    blocks, order = blocks_of(size), Order(64 * BATCH[size], seed=0)

    def run() -> Facts:
        ids = blocks[order.batch(trainer.step, BATCH[size])].astype(np.int64)
        trainer.train_step(torch.from_numpy(ids))
        return {"gradient_mb": gradient_mb(trainer.model)}

    run()
    return run


def ours(
    size: str,
    parameterization: Parameterization,
    vocab_size: int | None = None,
    compiled: bool = True,
    **changes: Any,
) -> Step:
    """A training step of the product.

    Args:
        vocab_size: in place of the size's own.
        compiled: `train.compile`, which `sedd tune` would set at both sizes.
        changes: of the settings.
    """
    config = config_of(size, parameterization, vocab_size)
    model = perturbed(SEDD(config))
    if compiled:
        model.network.compile_blocks()
    return our_steps(ScoreEntropy(model), size, vocab_size, **changes)


def our_steps(
    objective: Objective, size: str, vocab_size: int | None = None, **changes: Any
) -> Step:
    """The product's training steps on random tokens, of settings with changes."""
    trainer = Trainer(objective, settings_of(size, **changes), torch.device("cpu"))
    blocks, order = blocks_of(size, vocab_size), Order(64 * BATCH[size], seed=0)

    def run() -> Facts:
        trainer.train_step(blocks, order)
        return {"gradient_mb": gradient_mb(objective.module)}

    run()
    # Else the memory of gradients would seem to have been held before.
    free_gradient_memory()
    return run


def gradient_mb(model: nn.Module) -> float:
    """Size of all gradients, 10^6 bytes."""
    return sum(parameter.nbytes for parameter in model.parameters()) / 1e6


def step_flops(size: str, parameterization: Parameterization, head_share: float = 1.0) -> float:
    """Operations of a training step that has the head at a share of positions."""
    config = config_of(size, parameterization)
    positions = BATCH[size] * config.length
    return TRAINING * shape_of(config).forward(BATCH[size], head_share * positions)


def step_bytes(size: str, parameterization: Parameterization) -> float:
    """Bytes that a training step moves at least, of weights and all that belongs to them."""
    with torch.device("meta"):
        model = SEDD(config_of(size, parameterization))
    return PASSES * sum(parameter.nbytes for parameter in model.parameters())


def beyond_gradients(measured: Measured) -> Figure:
    """Memory above weights, gradients and optimiser state; gradients are freed between steps."""
    return Figure([measured.peak_mb - measured.facts["gradient_mb"]], measured.peak_mb)


def speed_row(
    name: str,
    size: str,
    plain_side: Measured,
    ours_side: Measured,
    machine: Machine,
    checks: tuple[Check, ...],
    reference_share: float,
    notes: tuple[str, ...] = (),
) -> Row:
    """A row of tokens a second. Half of the positions are masks, and need the head."""
    tokens, machine = BATCH[size] * config_of(size, "raw").length, machine.during(ours_side.flops)
    flops = step_flops(size, "raw", head_share=0.5)
    return Row(
        name,
        "tokens/s",
        checks,
        ours=rate(ours_side, tokens, machine, flops),
        plain=rate(plain_side, tokens, machine, step_flops(size, "raw")),
        reference_share=reference_share,
        floor=floor_text(machine, flops, step_bytes(size, "raw"), ours_side.median),
        notes=notes,
    )


def side_of(side: str, **settings: Any) -> Side:
    """A side that trains; a step is timed after another, as nearly all steps come."""
    return Side(f"benchmarks.train:{side}", {"parameterization": "raw"} | settings, lead=1)


def train_gpt2(plan: Plan, machine: Machine) -> list[Row]:
    """The rows train_gpt2_fp32, train_gpt2_bf16 and train_gpt2_memory."""
    sides = {side: side_of(side, size="gpt2") for side in ("plain", "ours")}
    fast_bfloat16 = has_bfloat16(torch.device("cpu"))
    if fast_bfloat16:
        sides["ours_bf16"] = side_of("ours", size="gpt2", precision="bfloat16")
        if not plan.quick:
            sides["plain_bf16"] = side_of("plain", size="gpt2", precision="bfloat16")
    if not plan.quick:
        sides["eager"] = side_of("ours", size="gpt2", compiled=False)
    found = interleaved(sides, plan.runs(7, 2), on_run=plan.on_run)
    plain, ours = found["plain"], found["ours"]
    rows = [
        speed_row(
            "train_gpt2_fp32", "gpt2", plain, ours, machine,
            (at_least(plain.median / ours.median, 3),), 0.43, (compiled_note(found),),
        )
    ]  # fmt: skip
    if fast_bfloat16:
        rows.append(bfloat16_row(found, machine))
    else:
        note = "not run: this processor has no bfloat16 instructions"
        rows.append(Row("train_gpt2_bf16", "tokens/s", notes=(note,)))
    large = side_of("ours", size="gpt2", vocab_size=LARGE_VOCAB)
    [at_large] = interleaved({"large": large}, 1, on_run=plan.on_run).values()
    return [*rows, memory_row(plain, ours, at_large)]


def bfloat16_row(found: dict[str, Measured], machine: Machine) -> Row:
    """Ours in bfloat16 against plain in float32."""
    plain, ours = found["plain"], found["ours_bf16"]
    checks = (at_least(plain.median / ours.median, 6),)
    note = "ours with train.compile; plain in bfloat16: `make bench` shows it"
    if "plain_bf16" in found:
        both, tokens = found["plain_bf16"], BATCH["gpt2"] * config_of("gpt2", "raw").length
        note = (
            f"ours with train.compile; plain in bfloat16: {tokens / both.median:,.0f} tokens/s, "
            f"ours is {both.median / ours.median:.2f}x that; peak {both.peak_mb:,.0f} MB"
        )
    return speed_row("train_gpt2_bf16", "gpt2", plain, ours, machine, checks, 0.43, (note,))


def memory_row(plain: Measured, ours: Measured, at_large: Measured) -> Row:
    """Memory beyond what every training step holds, at two sizes of the vocabulary."""
    held, plain_held, large = (beyond_gradients(side) for side in (ours, plain, at_large))
    growth = large.median / held.median
    return Row(
        "train_gpt2_memory",
        "MB",
        (
            Check("at most 1/5", held.median <= plain_held.median / 5),
            Check("flat in V", growth <= 1.1),
        ),
        ours=held,
        plain=plain_held,
        less_is_better=True,
        notes=(f"ours at V = {LARGE_VOCAB:,}: {large.median:,.0f} MB ({growth:.2f}x)",),
    )


def train_char(plan: Plan, machine: Machine) -> list[Row]:
    """The row train_char."""
    sides = {side: side_of(side, size="char") for side in ("plain", "ours")}
    if not plan.quick:
        sides["eager"] = side_of("ours", size="char", compiled=False)
    found = interleaved(sides, plan.runs(40, 8), on_run=plan.on_run)
    plain, ours = found["plain"], found["ours"]
    share = step_flops("char", "raw", 0.5) / ours.median / machine.during(ours.flops).flops
    ratio = plain.median / ours.median
    reached = Check("1.3x or 75% of the matrix rate", ratio >= 1.3 or share >= 0.75)
    notes = (compiled_note(found),)
    return [speed_row("train_char", "char", plain, ours, machine, (reached,), 0.60, notes)]


def compiled_note(found: dict[str, Measured]) -> str:
    """How ours is set, and what the ratio is otherwise."""
    note = "ours with train.compile"
    if "eager" not in found:
        return note
    return f"{note}; without: {found['plain'].median / found['eager'].median:.2f}x"
