"""Score held-out blocks as samples are scored: what the figures of real text are."""

from pathlib import Path

import numpy as np

from pipeline.config.params import load_params
from pipeline.data.packed import Packed, check_comparable
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import reported
from pipeline.evaluation.mauve import mauve_of, real_halves
from pipeline.evaluation.samples import Samples
from pipeline.evaluation.scores import draw_weights, identity_of, score, score_draws
from pipeline.files import write_json
from pipeline.scale.shares import starting
from pipeline.scale.unfinished import unfinished_units
from stages import STARTED_BY, run


@reported
def main(tokenizer: Path, packed: Path, baseline: Path, out: Path) -> None:
    """Write every figure to OUT, averaged over draws of as many blocks as there are samples."""
    params = load_params()
    settings = params.score
    text, blocks = TextTokenizer.load(tokenizer), Packed.open(packed)
    check_comparable(len(blocks.test), params.sample.num)
    draws = draw_weights(
        len(blocks.test), params.sample.num, settings.num_real_draws, settings.seed
    )
    index = np.flatnonzero(draws.any(axis=0))
    drawn = Samples.held_out(blocks, index, text)
    desc = "score real text"
    of_blocks = {"blocks": blocks.identity(packed)}
    identity = identity_of(params, text, baseline) | of_blocks | {"num": params.sample.num}
    resources = params.resources
    start = starting("stages.real_text", resources, params.device)
    with unfinished_units("real_text", identity, STARTED_BY, start, resources.store) as (
        units,
        work,
    ):
        scored = score(
            drawn, params, text, packed=packed, baseline=baseline, desc=desc, units=units
        )
        row = score_draws(scored, draws[:, index])
        if settings.mauve_seeds:
            halves = real_halves(len(blocks.test), params.sample.num, settings.seed)
            real, other = (Samples.held_out(blocks, half, text) for half in halves)
            named = units.named("mauve", f"{desc}, MAUVE")
            row |= mauve_of(scored, real, other, settings, named)
        work.computed()
        write_json(out, row)
        work.finish()


if __name__ == "__main__":
    run(main)
