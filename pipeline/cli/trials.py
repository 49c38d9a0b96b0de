"""Short trials of real training steps: how fast they are, and what memory they take."""

import ctypes
import gc
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import psutil
import torch

from pipeline.config.params import Params
from pipeline.data.packed import Packed
from pipeline.device import is_of_memory
from pipeline.errors import PipelineError
from pipeline.kernels.gradient_memory import free_gradient_memory
from pipeline.kernels.precision import Precision
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
from pipeline.training.loop import Trainer
from pipeline.training.run import new_model
from pipeline.training.schedule import Order, Windows
from pipeline.training.settings import Settings

Compile = bool | Literal["graphs"]
SAMPLE_SECONDS = 0.001
# Of the memory that is free: the rest is for what others start meanwhile.
USABLE = 0.9


@dataclass(frozen=True)
class Choice:
    """What `sedd tune` chooses; the fields are those of train in params.yaml."""

    precision: Precision
    compile: Compile
    accumulate: int

    def __str__(self) -> str:
        compiled = {False: "", True: "compiled, ", "graphs": "compiled to graphs, "}[self.compile]
        return f"{self.precision}, {compiled}accumulate {self.accumulate}"


@dataclass(frozen=True)
class Turn:
    """What one short training under a choice takes.

    Attributes:
        first: seconds of the first step, which compiles.
        seconds: of a step, on the average of those that are timed.
        held: bytes of weights, averages and the optimiser's two moments.
        risen: bytes that a step takes at most above those.
    """

    first: float
    seconds: float
    held: int
    risen: int


@dataclass(frozen=True)
class Job:
    """What is trained: the project's parameters, its packed data, and where."""

    params: Params
    packed: Packed
    device: torch.device

    @property
    def num_tokens(self) -> int:
        """Tokens a step."""
        return self.params.train.batch_size * self.packed.meta.length

    def training_seconds(self, turns: list[Turn]) -> float:
        """How long the whole training would take: its first step, then the others."""
        first = median(turn.first for turn in turns)
        return first + (self.params.train.num_steps - 1) * median(turn.seconds for turn in turns)


def take_turn(job: Job, choice: Choice, num_steps: int, num_rows: int | None = None) -> Turn:
    """Train for two steps and then `num_steps` timed ones; without any, `seconds` is 0.

    `num_rows` takes the place of the batch size. Every turn starts as training does, from the same
    weights and noise, compilation included, and leaves nothing behind.
    """
    # A compiled model is a cycle: it stays, with its optimiser, until it is collected.
    gc.collect()
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
    train = job.params.train
    settings = replace(
        Settings(**train.model_dump(include=set(Settings.__annotations__))),
        batch_size=num_rows or train.batch_size,
        accumulate=choice.accumulate,
        precision=choice.precision,
        num_steps=max(train.num_steps, num_steps + 2),
    )
    model = _model(job, choice.compile)
    objective = method_of(model).objective(model)
    trainer = Trainer(objective, settings, job.device)
    chosen = Windows if job.packed.overlaps else Order
    order = chosen(len(job.packed.train), train.seed)
    objective.module.train()

    def steps(num: int) -> float:
        started = time.perf_counter()
        for _ in range(num):
            trainer.train_step(job.packed.train_rows, order)
        if job.device.type == "cuda":
            torch.cuda.synchronize(job.device)
        return time.perf_counter() - started

    first = steps(1)
    held = 4 * sum(parameter.nbytes for parameter in objective.module.parameters())
    # Else gradients would not rise: the first step left memory for them.
    free_gradient_memory()
    with memory_rise(job.device) as rise:
        steps(1)
    seconds = steps(num_steps) / max(num_steps, 1)
    return Turn(first, seconds, held, rise.bytes)


def _model(job: Job, compiled: Compile) -> Model:
    model = new_model(job.params, job.packed.meta, job.device)
    if compiled:
        # What an earlier turn compiled would make this one's shapes look changing.
        torch.compiler.reset()
        model.network.compile_blocks(as_graphs=compiled == "graphs")
    return model


def take_turns(
    job: Job, choices: list[Choice], num_rounds: int, num_steps: int
) -> Iterator[tuple[Choice, Turn | str]]:
    """Turns of all choices in each round, there and back, so that no drift favours one of them.

    A choice that cannot be has no turn but a reason, and is left out from then on.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    left = list(choices)
    for number in range(num_rounds):
        for choice in left[:: 1 if number % 2 == 0 else -1]:
            try:
                turn = take_turn(job, choice, num_steps)
            except BackendCompilerFailed as error:
                reason = f"does not compile: {str(error).strip().splitlines()[0]}"
            except RuntimeError as error:
                if not is_of_memory(error):
                    raise
                reason = "out of memory"
            else:
                yield choice, turn
                continue
            left.remove(choice)
            yield choice, reason


def pieces_that_fit(job: Job, precision: Precision) -> list[int]:
    """The values of accumulate whose pieces fit in memory, the least first.

    Pieces grow from one row. On a CUDA device they do until its memory ends; elsewhere running out
    of memory ends the process, so that a piece is only tried if the one before says that it fits.

    Raises:
        PipelineError: not even one row fits.
    """
    batch_size = job.params.train.batch_size
    available = math.inf
    if job.device.type == "cpu":
        available = USABLE * psutil.virtual_memory().available
    fitting: list[int] = []
    last: Turn | None = None
    for rows in (n for n in range(1, batch_size + 1) if batch_size % n == 0):
        if last and last.held + last.risen * rows * fitting[0] / batch_size > available:
            break
        try:
            last = take_turn(job, Choice(precision, False, 1), 0, rows)
        except RuntimeError as error:
            if not is_of_memory(error):
                raise
            break
        fitting.insert(0, batch_size // rows)
    if not fitting:
        raise PipelineError(
            "a batch does not even fit in memory row by row: set train.activation_checkpointing "
            "to true, or lower model.width, model.num_blocks or pack.length, in params.yaml"
        )
    # Each rank has as many pieces as every other.
    return [num for num in fitting if num % job.params.resources.num_ranks == 0]


class _Rise:
    bytes = 0


@contextmanager
def memory_rise(device: torch.device) -> Iterator[_Rise]:
    """Most memory taken meanwhile above what is held on entering, in `bytes` on leaving.

    On a CUDA device its allocator counts; elsewhere the size of this process is looked at.
    """
    rise = _Rise()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield rise
        rise.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    _give_back_free_memory()
    process, left = psutil.Process(), threading.Event()
    sizes = [process.memory_info().rss]

    def look() -> None:
        while not left.wait(SAMPLE_SECONDS):
            sizes.append(process.memory_info().rss)

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield rise
    finally:
        left.set()
        watch.join()
    rise.bytes = max(sizes) - sizes[0]


def _give_back_free_memory() -> None:
    """What malloc keeps of earlier turns would hide what this one takes."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
