"""Score held-out blocks as samples are scored: what the figures of real text are."""

from pathlib import Path

import numpy as np
import typer

from pipeline.config.params import load_params
from pipeline.data.packed import Packed
from pipeline.data.splits import documents_among
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import memory_for, pick_device, pick_precision
from pipeline.errors import DataError, reported
from pipeline.evaluation.gen_ppl import likelihood
from pipeline.evaluation.real_text import held_out_blocks
from pipeline.evaluation.scorer import load_scorer
from pipeline.evaluation.scores import draw_weights, score_draws, statistics
from pipeline.files import write_json


@reported
def main(data: Path, tokenizer: Path, packed: Path, baseline: Path, out: Path) -> None:
    """Write every figure to OUT, averaged over draws of as many blocks as there are samples."""
    params = load_params()
    settings = params.score
    text, blocks = TextTokenizer.load(tokenizer), Packed.open(packed)
    if len(blocks.test) < params.sample.num:
        raise DataError(
            f"the held-out split has {len(blocks.test)} blocks, fewer than sample.num "
            f"(got {params.sample.num}): lower it, or real text cannot be compared"
        )
    draws = draw_weights(
        len(blocks.test), params.sample.num, settings.num_real_draws, settings.seed
    )
    index = np.flatnonzero(draws.any(axis=0))
    drawn = held_out_blocks(blocks, index, text)
    device = pick_device(params.device)
    scorer = load_scorer(
        settings.scorer,
        baseline=baseline,
        tokenizer=text.definition,
        eos_id=text.eos_id,
        device=device,
        precision=pick_precision(settings.precision, device, "score.precision"),
    )
    with memory_for("score.batch_size"):
        scored = likelihood(
            scorer,
            drawn,
            eos_id=text.eos_id,
            batch_size=settings.batch_size,
            desc="score real text",
        )
    # No window of running text is a document: there is none to look for.
    texts = drawn.texts if drawn.mode == "pad" else []
    train, held_out = documents_among(texts, data, params.data)
    figures = statistics(drawn, scored, vocabulary=text, train=train, held_out=held_out)
    write_json(out, score_draws(drawn, scored, scorer, figures, draws=draws[:, index]))


if __name__ == "__main__":
    typer.run(main)
