"""Score the samples of one step count: generative perplexity, and never it alone."""

from pathlib import Path

from pipeline.config.params import load_params
from pipeline.data.labels import labelled_by_column
from pipeline.data.packed import Packed
from pipeline.data.splits import Split
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import reported
from pipeline.evaluation.by_label import by_label
from pipeline.evaluation.mauve import mauve_of, real_halves
from pipeline.evaluation.samples import Samples
from pipeline.evaluation.scores import by_sample, identity_of, score, score_samples
from pipeline.files import sha256, write_json
from pipeline.scale.shares import starting
from pipeline.scale.unfinished import unfinished_units
from stages import STARTED_BY, run

SPLITS: tuple[Split, Split] = ("test", "train")


@reported
def main(
    samples: Path, data: Path, tokenizer: Path, packed: Path, baseline: Path, out: Path
) -> None:
    """Write every figure of SAMPLES to OUT."""
    params = load_params()
    text = TextTokenizer.load(tokenizer)
    drawn = Samples.read(samples, params.pack.mode)
    desc = f"score {samples.stem}"
    settings = params.score
    identity = identity_of(params, text, baseline) | {"samples": sha256(samples)}
    resources = params.resources
    start = starting("stages.score", resources, params.device)
    with unfinished_units("score", identity, STARTED_BY, start, resources.store) as (units, work):
        scored = score(
            drawn, params, text, packed=packed, baseline=baseline, desc=desc, units=units
        )
        row = score_samples(scored, settings.num_bootstrap, settings.seed)
        if settings.mauve_seeds:
            blocks = Packed.open(packed)
            index, _ = real_halves(len(blocks.test), params.sample.num, settings.seed)
            real = Samples.held_out(blocks, index, text)
            named = units.named("mauve", f"{desc}, MAUVE")
            row |= mauve_of(scored, real, drawn, settings, named)
        work.computed()
        if drawn.labels:
            held_out, training = (labelled_by_column(data, split, params.data) for split in SPLITS)
            asked = zip(drawn.texts, drawn.labels, strict=True)
            row["by_label"] = by_label(asked, held_out, training)
        write_json(out, row | {"by_sample": by_sample(scored)})
        work.finish()


if __name__ == "__main__":
    run(main)
