"""Score held-out documents as samples are scored: what the figures of real text are."""

import tempfile
from pathlib import Path

import numpy as np
import typer

from pipeline.data.corpus import read_documents
from pipeline.data.packing import Packed, pack
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import memory_for, pick_device
from pipeline.errors import DataError, reported
from pipeline.evaluation.gen_ppl import likelihood
from pipeline.evaluation.samples import Ints, Samples
from pipeline.evaluation.scorer import load_scorer
from pipeline.evaluation.scores import draw_weights, score_draws, statistics
from pipeline.files import write_json
from pipeline.params import Pack, load_params


def packed_texts(index: Ints, texts: list[str], tokenizer: TextTokenizer, how: Pack) -> Samples:
    """Documents in the form that samples have, `index` [N] being their places in the split."""
    with tempfile.TemporaryDirectory() as folder:
        splits = {"test": texts, "train": texts}
        pack(Path(folder), splits, tokenizer, mode=how.mode, length=how.length)
        ids = Packed.open(Path(folder)).test.astype(np.int64)
    return Samples(
        num_steps=None,
        index=index,
        ids=ids,
        texts=[tokenizer.decode(row) for row in ids],
        nfe=np.zeros(len(ids)),
    )


@reported
def main(data: Path, tokenizer: Path, baseline: Path, out: Path) -> None:
    """Write every figure to OUT, averaged over draws of as many documents as there are samples."""
    params = load_params()
    settings, files, column = params.score, params.data.files, params.data.column
    text = TextTokenizer.load(tokenizer)
    documents = list(read_documents(data / files.test, column))
    if len(documents) < params.sample.num:
        raise DataError(
            f"the held-out split has {len(documents)} documents, fewer than sample.num "
            f"(got {params.sample.num}): lower it, or real text cannot be compared"
        )
    draws = draw_weights(len(documents), params.sample.num, settings.num_real_draws, settings.seed)
    index = np.flatnonzero(draws.any(axis=0))
    drawn = packed_texts(index, [documents[i] for i in index], text, params.pack)
    scorer = load_scorer(
        settings.scorer,
        baseline=baseline,
        tokenizer=text.definition,
        eos_id=text.eos_id,
        device=pick_device(params.device),
    )
    with memory_for("score.batch_size"):
        scored = likelihood(
            scorer,
            drawn,
            eos_id=text.eos_id,
            batch_size=settings.batch_size,
            desc="score real text",
        )
    texts = set(drawn.texts)
    figures = statistics(
        drawn,
        scored,
        vocabulary=text,
        train=texts.intersection(read_documents(data / files.train, column)),
        held_out=texts.intersection(documents),
    )
    write_json(out, score_draws(drawn, scored, scorer, figures, draws=draws[:, index]))


if __name__ == "__main__":
    typer.run(main)
