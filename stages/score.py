"""Score the samples of one step count: generative perplexity, and never it alone."""

from pathlib import Path
from typing import Any

import typer

from pipeline.config.params import load_params
from pipeline.data.splits import documents_among
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import memory_for, pick_device, pick_precision
from pipeline.errors import reported
from pipeline.evaluation.gen_ppl import likelihood
from pipeline.evaluation.samples import Samples
from pipeline.evaluation.scorer import load_scorer
from pipeline.evaluation.scores import by_sample, score_samples, statistics
from pipeline.files import write_json


@reported
def main(samples: Path, data: Path, tokenizer: Path, baseline: Path, out: Path) -> None:
    """Write every figure of SAMPLES to OUT."""
    params = load_params()
    settings = params.score
    text = TextTokenizer.load(tokenizer)
    drawn = Samples.read(samples, params.pack.mode)
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
            desc=f"score {samples.stem}",
        )
    # No window of running text is a document: there is none to look for.
    texts = drawn.texts if drawn.mode == "pad" else []
    train, held_out = documents_among(texts, data, params.data)
    known: dict[str, Any] = {"vocabulary": text, "train": train, "held_out": held_out}
    figures = statistics(drawn, scored, **known)
    row = score_samples(
        drawn,
        scored,
        scorer,
        figures,
        num_bootstrap=settings.num_bootstrap,
        seed=settings.seed,
    )
    write_json(out, row | {"by_sample": by_sample(drawn, scored, **known)})


if __name__ == "__main__":
    typer.run(main)
