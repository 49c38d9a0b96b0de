"""Ranks of one thread against one process of as many threads, by hand: no row of `make bench`.

`python -m benchmarks.ranks [ROUNDS ROWS]` takes turns between both, on this machine, and prints
medians. V = 50,257, a width of 256, as many pieces a step as there are ranks.
"""

import multiprocessing
import os
import socket
import statistics
import sys
import time
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # as DDP does, which would take its time in each process

from benchmarks.shapes import config_of
from benchmarks.train import blocks_of, settings_of
from pipeline.device import keep_freed_memory
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.methods.sedd.model import SEDD
from pipeline.scale.world import Strategy, joined
from pipeline.training.loop import Trainer
from pipeline.training.schedule import Order

RANKS = 2
WARM_UP, NUM_STEPS = 2, 4
Found = tuple[float, float, int]


def steps(
    rank: int,
    size: int,
    strategy: Strategy,
    port: int,
    values: dict[str, Any],
    found: "SimpleQueue[Found]",
) -> None:
    """Tokens a second of one rank, megabytes that it sent and received, and those of weights."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(RANKS // size)
    keep_freed_memory()
    cpu = torch.device("cpu")
    with joined(size, cpu, 600, strategy) as world:
        torch.manual_seed(0)
        model = SEDD(config_of("gpt2", "conditional"))
        trainer = Trainer(ScoreEntropy(model), settings_of("gpt2", **values), cpu, world)
        blocks = blocks_of("gpt2")
        order = Order(len(blocks), seed=0)
        for number in range(WARM_UP + NUM_STEPS):
            if number == WARM_UP:
                started, sent = time.perf_counter(), loopback_bytes()
            trainer.train_step(blocks, order)
        seconds = time.perf_counter() - started
        moved = (loopback_bytes() - sent) / NUM_STEPS
    tokens = NUM_STEPS * values["batch_size"] * model.length
    if rank == 0:
        found.put((tokens / seconds, moved, sum(each.nbytes for each in model.parameters())))


def loopback_bytes() -> int:
    """All that was sent through the loopback device of this machine so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0])
    return 0


def turn(size: int, strategy: Strategy, **values: Any) -> Found:
    """Steps by processes of their own."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    found: SimpleQueue[Found] = fork.SimpleQueue()
    ranks = [
        fork.Process(target=steps, args=(rank, size, strategy, port, values, found))
        for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return found.get()


def main() -> None:
    """Print a line for each way to train, after all rounds."""
    rounds, rows = (int(given) for given in sys.argv[1:] or ("3", "8"))
    ways: dict[str, tuple[int, str, Strategy]] = {
        "one process": (1, "fixed", "ddp"),
        "ranks, fixed": (RANKS, "fixed", "ddp"),
        "ranks, fast": (RANKS, "fast", "ddp"),
        "ranks, fsdp": (RANKS, "fixed", "fsdp"),
    }
    found: dict[str, list[Found]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            size, reduction, strategy = ways[name]
            how = {"batch_size": rows, "accumulate": RANKS, "reduction": reduction}
            found[name].append(turn(size, strategy, **how))
            print(f"{name}: {found[name][-1][0]:,.0f} tokens/s", file=sys.stderr)
    base = [each[0] for each in found["one process"]]
    for name, turns in found.items():
        rates = [each[0] for each in turns]
        ratios = sorted(rate / other for rate, other in zip(rates, base, strict=True))
        moved = turns[-1][1] / turns[-1][2]
        rate, ratio = statistics.median(rates), statistics.median(ratios)
        print(
            f"{name:14s} {rate:8,.0f} tokens/s, {ratio:.2f} "
            f"of one process ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
            f"{moved:.2f} times the weights' bytes moved a step"
        )


if __name__ == "__main__":
    main()
