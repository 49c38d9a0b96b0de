"""Ranks of one thread against one process of as many threads: V = 50,257, a width of 256."""

import multiprocessing
import os
import socket
import time
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # as DDP does, which would take its time in each process

from benchmarks.machine import Machine
from benchmarks.measure import Facts, Measured, Side, Step, interleaved
from benchmarks.rows import Check, Figure, Plan, Row, at_least, rate
from benchmarks.shapes import config_of
from benchmarks.train import BATCH, blocks_of, settings_of
from pipeline.device import keep_freed_memory
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.methods.sedd.model import SEDD
from pipeline.scale.world import Strategy, joined
from pipeline.training.loop import Trainer
from pipeline.training.schedule import Order

SIZE, RANKS = "gpt2", 2
WARM_UP, NUM_STEPS = 2, 4
WAYS: dict[str, tuple[dict[str, Any], float | None]] = {
    "fixed": ({"reduction": "fixed"}, 0.7),
    "fast": ({"reduction": "fast"}, 0.8),
    "fsdp": ({"reduction": "fixed", "strategy": "fsdp"}, None),
}
"""Of ranks: their settings, and what part of one process's speed they must have."""
MOST_MOVED = 2.2
"""Times the bytes of weights, a step, for ranks that hold all of them."""


def prepare(size: int, reduction: str = "fixed", strategy: Strategy = "ddp") -> Step:
    """Training anew in processes of its own: a few steps, of which the first do not count."""

    def run() -> Facts:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        fork = multiprocessing.get_context("fork")
        found: SimpleQueue[Facts] = fork.SimpleQueue()
        ranks = [
            fork.Process(target=_train, args=(rank, size, reduction, strategy, port, found))
            for rank in range(size)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
        if any(rank.exitcode for rank in ranks):
            raise RuntimeError("a rank failed")
        return found.get()

    return run


def _train(
    rank: int,
    size: int,
    reduction: str,
    strategy: Strategy,
    port: int,
    found: "SimpleQueue[Facts]",
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(RANKS // size)
    keep_freed_memory()
    cpu = torch.device("cpu")
    with joined(size, cpu, 600, strategy) as world:
        torch.manual_seed(0)
        model = SEDD(config_of(SIZE, "conditional"))
        weights = sum(each.nbytes for each in model.parameters())
        settings = settings_of(SIZE, accumulate=RANKS, reduction=reduction)
        trainer = Trainer(ScoreEntropy(model), settings, cpu, world)
        blocks = blocks_of(SIZE)
        order = Order(len(blocks), seed=0)
        for number in range(WARM_UP + NUM_STEPS):
            if number == WARM_UP:
                started, sent = time.perf_counter(), loopback_bytes()
            trainer.train_step(blocks, order)
        seconds = time.perf_counter() - started
        moved = (loopback_bytes() - sent) / NUM_STEPS
    if rank == 0:
        found.put({"seconds": seconds, "moved": moved / weights})


def loopback_bytes() -> int:
    """All that was sent through the loopback device of this machine so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0])
    return 0


def train_ranks(plan: Plan, machine: Machine) -> list[Row]:
    """The rows train_ranks_fixed, train_ranks_fast and train_ranks_fsdp."""
    sides = {"one": Side("benchmarks.ranks:prepare", {"size": 1})}
    for name, (settings, _) in WAYS.items():
        sides[name] = Side("benchmarks.ranks:prepare", {"size": RANKS, **settings})
    found = interleaved(sides, plan.runs(3, 1), on_run=plan.on_run)
    one = _figure(found["one"], machine)
    return [_row(name, one, found[name], machine) for name in WAYS]


def _row(name: str, one: Figure, measured: Measured, machine: Machine) -> Row:
    ranks, (_, bar) = _figure(measured, machine), WAYS[name]
    moved = measured.facts["moved"]
    checks: tuple[Check, ...] = ()
    if bar is not None:
        reached = moved <= MOST_MOVED
        checks = (at_least(ranks.median / one.median, bar), Check(f"moves {MOST_MOVED}x", reached))
    notes = (
        f"plain: one process of {RANKS} threads; ours: {RANKS} ranks of one thread",
        f"{moved:.2f} times the weights' bytes moved a step; peaks hold models and all",
    )
    return Row(f"train_ranks_{name}", "tokens/s", checks, ranks, one, notes=notes)


def _figure(measured: Measured, machine: Machine) -> Figure:
    return rate(measured, NUM_STEPS * BATCH[SIZE] * config_of(SIZE, "raw").length, machine)
