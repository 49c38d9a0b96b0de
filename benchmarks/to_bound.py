"""Training on names until the held-out bound is low enough, each side with its own best values."""

import tempfile
import time
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import Machine
from benchmarks.measure import Facts, Side, Step, interleaved
from benchmarks.plain import plain_model
from benchmarks.plain_training import PlainTrainer, plain_loss
from benchmarks.rows import Check, Figure, Plan, Row, at_least
from benchmarks.shapes import config_of
from benchmarks.train import COMMON
from pipeline.data.corpus import read_documents
from pipeline.data.packed import Packed
from pipeline.data.packing import pack
from pipeline.data.tokenizer import TextTokenizer, train_char_tokenizer
from pipeline.methods.estimates import Rate, rate
from pipeline.methods.sedd.bound import draw_bound
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.methods.sedd.model import SEDD
from pipeline.training.loop import Trainer
from pipeline.training.schedule import Order
from pipeline.training.settings import Settings

BOUND = 2.36
"""Nats a character, the end of each name counted."""

# Each side's own search of batch and learning rate, and the steps that take it a little below.
PLAIN = {"num_steps": 5000, "batch_size": 64, "lr": 1.5e-3}
OURS = {"num_steps": 1500, "batch_size": 64, "lr": 2e-3}


@cache
def names() -> tuple[Packed, TextTokenizer]:
    """The names that ship with the project, packed as the pipeline packs them."""
    source = Path(str(files("pipeline.data") / "baby_names"))
    tokenizer = train_char_tokenizer(read_documents(source / "train.parquet", "Names"))
    documents = {
        split: read_documents(source / f"{split}.parquet", "Names") for split in ("train", "test")
    }
    with tempfile.TemporaryDirectory() as name:
        pack(Path(name), documents, tokenizer, mode="pad", length=16)
        packed = Packed.open(Path(name))
        train, test = np.array(packed.train), np.array(packed.test)
        return replace(packed, train_rows=train, test_rows=test, eval_rows=test), tokenizer


def held_out_bound(trained: SEDD) -> Rate:
    """The bound of all held-out names, nats a character, by the product's own network."""
    packed, tokenizer = names()
    model = SEDD(trained.config).eval()
    model.load_state_dict(trained.state_dict())
    found = draw_bound(
        model,
        torch.from_numpy(packed.test.astype(np.int64)),
        num_replicates=8,
        num_draws=2,
        batch_size=256,
        seed=0,
    )
    characters = torch.tensor([tokenizer.num_chars(ids, "pad") for ids in packed.test])
    return rate(found.total, characters)


def settings_of(changes: dict[str, Any]) -> Settings:
    """How a side trains."""
    return Settings(**COMMON | changes)


def plain() -> Step:
    """Training with the raw score in its plain formulation."""
    packed, tokenizer = names()
    settings = settings_of(PLAIN)
    order = Order(len(packed.train), settings.seed)

    def run() -> Facts:
        torch.manual_seed(settings.seed)
        model = plain_model(config_of("char", "raw", tokenizer.size))
        trainer = PlainTrainer(model, plain_loss(model), settings)
        started = time.perf_counter()
        while trainer.step < settings.num_steps:
            ids = packed.train[order.batch(trainer.step, settings.batch_size)]
            trainer.train_step(torch.from_numpy(ids.astype(np.int64)))
        seconds = time.perf_counter() - started
        trainer.ema.copy_to_module()
        return facts(model, seconds)

    return run


def ours() -> Step:
    """Training as the product does it, with its default parameterisation."""
    packed, tokenizer = names()
    settings = settings_of(OURS)
    order = Order(len(packed.train), settings.seed)

    def run() -> Facts:
        torch.manual_seed(settings.seed)
        model = SEDD(config_of("char", "conditional", tokenizer.size))
        trainer = Trainer(ScoreEntropy(model), settings, torch.device("cpu"))
        started = time.perf_counter()
        while trainer.step < settings.num_steps:
            trainer.train_step(packed.train, order)
        seconds = time.perf_counter() - started
        trainer.ema.copy_to_module()
        return facts(model, seconds)

    return run


def facts(model: SEDD, seconds: float) -> Facts:
    """What is known of a trained model; its evaluation does not count."""
    bound = held_out_bound(model)
    return {"seconds": seconds, "bound": bound.value, "stderr": bound.mc_stderr}


def time_to_bound_names(plan: Plan, machine: Machine) -> list[Row]:
    """The row time_to_bound_names."""
    sides = {side: Side(f"benchmarks.to_bound:{side}") for side in ("plain", "ours")}
    found = interleaved(sides, 1, warm_up=False, on_run=plan.on_run)
    plain, ours = found["plain"], found["ours"]
    bounds = {side: measured.facts["bound"] for side, measured in found.items()}
    return [
        Row(
            "time_to_bound_names",
            "s",
            (
                at_least(plain.median / ours.median, 3),
                Check(f"bound at most {BOUND}", bounds["ours"] <= BOUND),
            ),
            ours=Figure(ours.seconds, ours.peak_mb),
            plain=Figure(plain.seconds, plain.peak_mb),
            less_is_better=True,
            notes=tuple(
                f"{side}: {settings['num_steps']:,} steps of {settings['batch_size']}, learning "
                f"rate {settings['lr']:g}, bound {bounds[side]:.4f} "
                f"(± {found[side].facts['stderr']:.4f})"
                + ("" if bounds[side] <= BOUND else ": not there yet, it takes longer still")
                for side, settings in (("plain", PLAIN), ("ours", OURS))
            ),
        )
    ]
