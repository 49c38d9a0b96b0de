"""Functions on several ranks: forked processes, which need not import torch again."""

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # as DDP does, in each process anew if it is not there

from pipeline.scale.world import Strategy, World, joined

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port


def on_ranks(
    size: int,
    function: Callable[[World], Any],
    folder: Path,
    timeout_seconds: int = 60,
    strategy: Strategy = "ddp",
) -> list[Any]:
    """What a function of a World returns on each rank, plain values; all must end well."""
    port = free_port()
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(
            target=run_rank, args=(rank, size, port, function, folder, timeout_seconds, strategy)
        )
        for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(4 * timeout_seconds)
    assert [rank.exitcode for rank in ranks] == [0] * size
    return [json.loads((folder / f"{size}-{rank}.json").read_text()) for rank in range(size)]


def run_rank(
    rank: int,
    size: int,
    port: int,
    function: Callable[[World], Any],
    folder: Path,
    timeout_seconds: int,
    strategy: Strategy,
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with joined(size, CPU, timeout_seconds, strategy) as world:
        found = function(world)
    (folder / f"{size}-{rank}.json").write_text(json.dumps(found))
