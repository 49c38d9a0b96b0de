"""Whether bfloat16 trains as float32 does: the same steps in both, loss by loss."""

from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.pack import COLUMN, CORPUS, TOKENIZER
from benchmarks.shapes import config_of
from benchmarks.train import settings_of
from pipeline.data.corpus import read_documents
from pipeline.data.gpt2 import read_gpt2_tokenizer
from pipeline.device import has_bfloat16
from pipeline.errors import PipelineError, reported
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.methods.sedd.model import SEDD
from pipeline.progress import progress
from pipeline.training.loop import Trainer
from pipeline.training.schedule import Order

MOST_APART = 0.01


class Recorded(ScoreEntropy):
    """The product's method, with every loss kept."""

    def __init__(self, model: SEDD) -> None:
        super().__init__(model)
        self.losses: list[float] = []

    def loss(self, *drawn: Tensor) -> Tensor:
        found = super().loss(*drawn)
        self.losses.append(found.item())
        return found


def text_blocks() -> np.ndarray[Any, np.dtype[Any]]:
    """The held-out documents as blocks [N, L] of GPT-2's tokens.

    Raises:
        PipelineError: the corpus is not there.
    """
    if not (CORPUS.is_dir() and TOKENIZER.is_dir()):
        raise PipelineError(f"no {CORPUS}: the curves are of real text")
    tokenizer = read_gpt2_tokenizer(TOKENIZER)
    texts = list(read_documents(CORPUS / "test.parquet", COLUMN))
    stream = [id for ids in tokenizer.encode_batch(texts) for id in (*ids, tokenizer.eos_id)]
    length = config_of("gpt2", "raw").length
    whole = len(stream) // length * length
    return np.array(stream[:whole], np.uint32).reshape(-1, length)


def curve(precision: str, num_steps: int) -> list[float]:
    """Losses of the first steps at GPT-2's vocabulary, nats a sequence."""
    torch.manual_seed(0)
    method = Recorded(SEDD(config_of("gpt2", "raw")))
    settings = settings_of("gpt2", precision=precision)
    trainer = Trainer(method, settings, torch.device("cpu"))
    blocks = text_blocks()
    order = Order(len(blocks), seed=0)
    for _ in progress(range(num_steps), desc=precision, unit="step"):
        trainer.train_step(blocks, order)
    return [loss / settings.batch_size for loss in method.losses]


@reported
def curves(num_steps: Annotated[int, typer.Option(help="Training steps.")] = 200) -> None:
    """Train in float32 and in bfloat16, and compare the losses."""
    if not has_bfloat16(torch.device("cpu")):
        raise PipelineError("this processor has no bfloat16 instructions")
    wide, narrow = (np.array(curve(precision, num_steps)) for precision in ("float32", "bfloat16"))
    apart = np.abs(narrow / wide - 1)
    print(
        f"{num_steps} steps at V = 50,257: losses from {wide[0]:.1f} to {wide[-20:].mean():.1f} "
        f"nats a sequence; bfloat16 is apart from float32 by {apart.max():.2%} at most, "
        f"{apart.mean():.2%} on average"
    )
    if apart.max() > MOST_APART:
        raise typer.Exit(1)
