"""MAUVE: how near samples are to real text, by how their features fall into common clusters.

Pillutla et al., 2102.01454, as their package mauve-text has it. That is under the GPLv3: it is an
extra, and imported here alone, when a figure is asked for. Features are the scorer's last states of
each text's last token, with nothing before the text, cut at what the scorer reads. Not even two
halves of one law come to 1, so that no value stands without that of real text beside it; and as
clusters depend on where k-means starts, a value is the mean over seeds, beside their spread.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.config.sampling import Score
from pipeline.device import memory_for
from pipeline.environment import check_extra
from pipeline.errors import DataError
from pipeline.evaluation.gen_ppl import last_states
from pipeline.evaluation.samples import Floats, Ints, Samples
from pipeline.evaluation.scores import Scored
from pipeline.scale.units import Units

KEY = "score.mauve_seeds"


def real_halves(num_texts: int, num: int, seed: int) -> tuple[Ints, Ints]:
    """Two sets of `num` held-out texts [num] that share none, by their places.

    All samples are compared with the first; so is the second, for the value of real text.

    Raises:
        DataError: there are too few texts.
    """
    if num_texts < 2 * num:
        raise DataError(
            f"{KEY}: the held-out split has {num_texts:,} blocks, fewer than twice sample.num "
            f"(got {num:,}), which MAUVE takes: real text is compared with other real text too"
        )
    places = np.random.default_rng(seed).permutation(num_texts)[: 2 * num]
    return np.sort(places[:num]), np.sort(places[num:])


def features(scored: Scored, samples: Samples, *, batch_size: int, units: Units) -> Floats:
    """The scorer's last state [n, D] of the last token of each text that has one.

    A text ends before its first eos, running text at the end of its window.
    """
    scorer = scored.scorer
    if scorer.tokenizer is None:
        eos_id = scored.vocabulary.eos_id
        num_tokens = samples.num_tokens(eos_id)
        rows = [row[:num].tolist() for row, num in zip(samples.ids, num_tokens, strict=True)]
        if samples.mode == "pad":
            rows = [row[:-1] if row[-1] == eos_id else row for row in rows]
    else:
        rows = scorer.encode(samples.texts)
    most = scorer.model.max_tokens
    rows = [row[:most] for row in rows if row]
    with memory_for("score.batch_size"):
        return last_states(scorer, rows, batch_size=batch_size, units=units)


def mauve(real: Floats, others: Floats, seeds: Sequence[int]) -> dict[str, float | None]:
    """MAUVE of features [n, D] and [m, D]: the mean over seeds of k-means, and its spread.

    The spread is the standard deviation of a value at one seed; None for a single one.

    Raises:
        PipelineError: the package is not here.
        DataError: fewer than two texts are left.
    """
    check_extra("mauve", KEY)
    if min(len(real), len(others)) < 2:
        raise DataError(f"{KEY}: MAUVE takes two texts or more that are not empty")
    from mauve import compute_mauve

    values = [
        float(compute_mauve(p_features=real, q_features=others, seed=seed).mauve) for seed in seeds
    ]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mauve": float(np.mean(values)), "mauve_spread": spread}


def mauve_of(
    scored: Scored, real: Samples, others: Samples, settings: Score, units: Units
) -> dict[str, float | None]:
    """MAUVE of `others` against `real`, both by the scorer that has scored already."""
    size = settings.batch_size
    theirs = features(scored, real, batch_size=size, units=units.named("real"))
    ours = features(scored, others, batch_size=size, units=units.named("others"))
    return mauve(theirs, ours, settings.mauve_seeds)
