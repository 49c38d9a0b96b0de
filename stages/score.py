"""Score the samples of one step count: generative perplexity, and never it alone."""

from pathlib import Path

import typer

from pipeline.config.params import load_params
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import reported
from pipeline.evaluation.samples import Samples
from pipeline.evaluation.scores import by_sample, score, score_samples
from pipeline.files import write_json


@reported
def main(samples: Path, data: Path, tokenizer: Path, baseline: Path, out: Path) -> None:
    """Write every figure of SAMPLES to OUT."""
    params = load_params()
    text = TextTokenizer.load(tokenizer)
    drawn = Samples.read(samples, params.pack.mode)
    desc = f"score {samples.stem}"
    scored = score(drawn, params, text, data=data, baseline=baseline, desc=desc)
    row = score_samples(scored, params.score.num_bootstrap, params.score.seed)
    write_json(out, row | {"by_sample": by_sample(scored)})


if __name__ == "__main__":
    typer.run(main)
