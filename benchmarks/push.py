"""Training that sends its snapshots to an Oxen server meanwhile, against training that does not."""

import atexit
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.machine import Machine
from benchmarks.measure import Facts, Side, Step, interleaved
from benchmarks.oxen_server import OxenServer, find_server
from benchmarks.rows import Check, Plan, Row, rate
from benchmarks.shapes import config_of, perturbed
from benchmarks.train import BATCH, blocks_of, settings_of
from pipeline.config.data import Patience
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.methods.sedd.model import SEDD
from pipeline.publishing.handing import pushing
from pipeline.publishing.spool import waiting_spools
from pipeline.training.loop import Trainer
from pipeline.training.schedule import Order

SIZE = "char"
EVERY, PUSHES = 50, 2
"""Steps between pushes, and pushes in a run."""
NUM_SAMPLES = 8
SLOWER = 0.03
PATIENCE = Patience(connect_seconds=10, stall_seconds=60, retries=4)


def train(repo: str, push: bool) -> Step:
    """Training steps with a snapshot every EVERY of them, handed over where `push`.

    A run's pushes are at the start of their steps, so that the sending falls within its time; what
    is still sent at its end would slow the other side down, and is waited for.
    """
    config = config_of(SIZE, "raw")
    model = perturbed(SEDD(config))
    trainer = Trainer(ScoreEntropy(model), settings_of(SIZE), torch.device("cpu"))
    blocks, order = blocks_of(SIZE, config.vocab_size), Order(64 * BATCH[SIZE], seed=0)
    trainer.train_step(blocks, order)
    stack = ExitStack()
    atexit.register(stack.close)
    root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    os.environ["DVC_ROOT"] = str(root)
    state = root / f"train-{push}"
    state.mkdir()
    request = {"repo": repo, "patience": PATIENCE.model_dump()}
    hand_over = stack.enter_context(pushing(push, state, request))

    def run() -> Facts:
        started = time.perf_counter()
        for _ in range(PUSHES):
            ids = blocks[:NUM_SAMPLES].tolist()
            texts = [" ".join(map(str, row)) for row in ids]
            losses = {"loss": 1.0, "eval_loss": 1.0}
            hand_over({"step": trainer.step, **losses, "texts": texts, "ids": ids})
            for _ in range(EVERY):
                trainer.train_step(blocks, order)
        seconds = time.perf_counter() - started
        while list(state.glob("snapshots/*.json")) or waiting_spools():
            time.sleep(0.1)
        return {"seconds": seconds}

    return run


def train_with_push(plan: Plan, machine: Machine) -> list[Row]:
    """The row train_with_push."""
    name = "train_with_push"
    binary = find_server()
    if binary is None:
        return [Row(name, "tokens/s", notes=("not run: no oxen-server",))]
    with tempfile.TemporaryDirectory() as folder:
        server = OxenServer(binary, Path(folder))
        settings = {"repo": server.url("bench", "snapshots")}
        try:
            sides = {
                side: Side("benchmarks.push:train", settings | {"push": side == "ours"})
                for side in ("plain", "ours")
            }
            found = interleaved(sides, plan.runs(3, 1), on_run=plan.on_run)
        finally:
            server.kill()
    plain, ours = found["plain"], found["ours"]
    tokens = PUSHES * EVERY * BATCH[SIZE] * config_of(SIZE, "raw").length
    reached = plain.median / ours.median >= 1 - SLOWER
    return [
        Row(
            name,
            "tokens/s",
            (Check(f"within {SLOWER:.0%}", reached),),
            ours=rate(ours, tokens, machine),
            plain=rate(plain, tokens, machine),
            notes=(f"plain: no push; ours: one every {EVERY} steps, to a server on this machine",),
        )
    ]
