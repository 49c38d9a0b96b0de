"""Every figure of a set of samples, or of draws of real text, under the names of the report."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.params import Params
from pipeline.data.documents import documents_among
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import device_label, memory_for, pick_device, pick_precision
from pipeline.errors import PipelineError
from pipeline.evaluation.diversity import (
    NGrams,
    Statistic,
    first_of_its_kind,
    mean_of,
    uniqueness,
)
from pipeline.evaluation.gen_ppl import Likelihood, likelihood
from pipeline.evaluation.published import published
from pipeline.evaluation.samples import Floats, Samples
from pipeline.evaluation.scorer import Scorer, check_scorer, load_scorer
from pipeline.evaluation.self_bleu import self_bleu
from pipeline.files import folder_revision
from pipeline.scale.units import UNKEPT, Units

# So many resamples at once keep a statistic's own tables small.
ROWS_AT_ONCE = 50


@dataclass(frozen=True)
class Scored:
    """Texts, and what is known of them.

    Attributes:
        likelihood: what `scorer` makes of them.
        vocabulary: the samples' tokenizer.
        train: the texts among the samples' that the training split holds.
        held_out: those that the held-out split holds.
        published: what papers' protocols make of them, by name; none of documents.
    """

    samples: Samples
    likelihood: Likelihood
    scorer: Scorer
    vocabulary: TextTokenizer
    train: Collection[str]
    held_out: Collection[str]
    published: Mapping[str, Likelihood] = field(default_factory=dict)


def statistics(scored: Scored) -> dict[str, Statistic]:
    """All figures of a set of samples by name; entropies in nats unless the name says bits.

    Entropy and distinct-n see the tokens through the first eos, that eos included, and of running
    text all; an n-gram lies within one sample. No window of running text is a document, so that
    nothing is known of its novelty.
    """
    samples, vocabulary = scored.samples, scored.vocabulary
    num_tokens = samples.num_tokens(vocabulary.eos_id)
    formed = samples.well_formed(vocabulary)
    tokens = NGrams.of(samples.ids, num_tokens, 1)
    repeated = NGrams.of(samples.ids, num_tokens, 4).repeated()
    has_four = np.isfinite(repeated).astype(np.int64)
    sedd, mdlm = scored.published.get("sedd"), scored.published.get("mdlm")
    novel = np.array([text not in scored.train for text in samples.texts], np.float64)
    known = np.array([text in scored.held_out for text in samples.texts], np.float64)
    whole = np.full(len(samples), samples.mode == "pad", np.int64)
    invalid = np.array(
        [vocabulary.is_invalid_utf8(ids, samples.mode) for ids in samples.ids], np.float64
    )
    return {
        "gen_ppl": scored.likelihood.gen_ppl,
        "gen_ppl_mean_of_exp": scored.likelihood.gen_ppl_mean_of_exp,
        "gen_ppl_sedd": sedd.gen_ppl_mean_of_exp if sedd else unmeasured,
        "gen_ppl_mdlm": mdlm.gen_ppl if mdlm else unmeasured,
        "entropy": tokens.entropy,
        "entropy_per_sample": mean_of(tokens.entropies()),
        "entropy_per_sample_bits": mean_of(tokens.entropies() / math.log(2)),
        "distinct_1": tokens.distinct,
        "distinct_2": NGrams.of(samples.ids, num_tokens, 2).distinct,
        "distinct_3": NGrams.of(samples.ids, num_tokens, 3).distinct,
        "rep_4": mean_of(np.nan_to_num(repeated), has_four),
        "uniqueness": uniqueness(samples.texts),
        "novelty": mean_of(novel, whole),
        "held_out": mean_of(known, whole),
        "well_formed": mean_of(formed.astype(np.float64)),
        "invalid_utf8": mean_of(invalid),
        "nfe": mean_of(samples.nfe),
    }


def unmeasured(weights: Floats) -> Floats:
    """The statistic of what does not exist for these samples."""
    return np.full(len(weights), np.nan)


def by_sample(scored: Scored) -> dict[str, list[Any]]:
    """What is known of each sample by itself, in the samples' order.

    Returns:
        `nats` of its `scored_tokens` tokens, whether it is `well_formed`, and whether a split
        has its text (`in_train`, `in_held_out`); None of windows of running text.
    """
    samples, documents = scored.samples, scored.samples.mode == "pad"
    return {
        "index": samples.index.tolist(),
        "nats": scored.likelihood.nats.tolist(),
        "scored_tokens": scored.likelihood.num_tokens.tolist(),
        "well_formed": samples.well_formed(scored.vocabulary).tolist(),
        "in_train": [text in scored.train if documents else None for text in samples.texts],
        "in_held_out": [text in scored.held_out if documents else None for text in samples.texts],
    }


def score_samples(scored: Scored, num_bootstrap: int, seed: int) -> dict[str, Any]:
    """Each figure of all samples, with its bootstrap standard error over samples."""
    figures, everything = statistics(scored), np.ones((1, len(scored.samples)))
    weights = bootstrap_weights(len(scored.samples), num_bootstrap, seed)
    # A resample repeats texts, so that uniqueness itself falls to about 63% in it. Whether a
    # sample repeats an earlier one is resampled instead: the same mean, and an error that
    # agrees with fresh sets of samples.
    resampled = figures | {"uniqueness": mean_of(first_of_its_kind(scored.samples.texts))}
    row = _counts(scored, everything)
    for name, statistic in figures.items():
        value = float(statistic(everything)[0])
        row |= _figure(name, value, spread(over_sets(resampled[name], weights)))
    return row | _self_bleu(scored, everything[0])


def score_draws(scored: Scored, draws: Floats) -> dict[str, Any]:
    """Each figure averaged over `draws` [R, N] (1 where a text is in a draw).

    The error is the standard deviation over draws: the spread that one such set of texts has.
    Self-BLEU, which takes longest, is of the first draw alone.
    """
    row = _counts(scored, draws)
    for name, statistic in statistics(scored).items():
        values = over_sets(statistic, draws)
        row |= _figure(name, float(values.mean()), spread(values))
    return row | _self_bleu(scored, draws[0])


def _self_bleu(scored: Scored, chosen: Floats) -> dict[str, float | None]:
    """Mean self-BLEU of those of N texts that are `chosen` [N]; its error is that of the mean."""
    samples = scored.samples
    rows = np.flatnonzero(chosen)
    num_tokens = samples.num_tokens(scored.vocabulary.eos_id)[rows]
    values = self_bleu(samples.ids[rows], num_tokens)
    return _figure("self_bleu", float(values.mean()), spread(values) / math.sqrt(len(values)))


def _counts(scored: Scored, sets: Floats) -> dict[str, Any]:
    """What was scored; counts are the mean over sets, to the nearest whole."""
    found, scorer = scored.likelihood, scored.scorer
    excluded = scored.samples.index[(found.num_tokens == 0) & sets.any(axis=0)]
    return {
        "num_steps": scored.samples.num_steps,
        "num_samples": round(sets.sum(axis=1).mean()),
        "num_scored": round((sets @ found.scored).mean()),
        "excluded": excluded.tolist(),
        "num_tokens": round((sets @ found.num_tokens).mean()),
        "scorer": {
            "name": scorer.name,
            "sha256": scorer.sha256,
            "precision": scorer.precision,
        },
    }


def score(
    samples: Samples,
    params: Params,
    tokenizer: TextTokenizer,
    *,
    packed: Path,
    baseline: Path,
    desc: str,
    units: Units = UNKEPT,
) -> Scored:
    """Score `samples` as params.yaml says, and look for them among those of `packed`.

    Raises:
        PipelineError: the scorer, or the documents, cannot be used.
    """
    settings, device = params.score, pick_device(params.device)
    check_scorer(settings.scorer, settings.scorer_revision)
    scorer = load_scorer(
        settings.scorer,
        baseline=baseline,
        tokenizer=tokenizer.definition,
        start_id=tokenizer.start_id,
        device=device,
        precision=pick_precision(settings.precision, device, "score.precision"),
        commit=settings.scorer_revision,
    )
    eos_id, batch_size = tokenizer.eos_id, settings.batch_size
    with memory_for("score.batch_size"):
        named = units.named("likelihood", desc)
        found = likelihood(scorer, samples, eos_id=eos_id, batch_size=batch_size, units=named)
        others: dict[str, Likelihood] = {}
        if samples.mode != "pad":
            named = units.named("published", f"{desc} as published")
            others = published(scorer, samples, tokenizer, batch_size=batch_size, units=named)
    # No window of running text is a document: there is none to look for.
    texts = samples.texts if samples.mode == "pad" else []
    train, held_out = (documents_among(texts, packed, split) for split in ("train", "test"))
    return Scored(samples, found, scorer, tokenizer, train, held_out, others)


def identity_of(params: Params, tokenizer: TextTokenizer, baseline: Path) -> dict[str, Any]:
    """What decides what `score` makes of given texts, as plain values."""
    settings, device = params.score, pick_device(params.device)
    return {
        "score": settings.model_dump(),
        "mode": params.pack.mode,
        "tokenizer": tokenizer.sha256,
        "baseline": folder_revision(baseline),
        "device": device_label(device),
        "precision": pick_precision(settings.precision, device, "score.precision"),
    }


def bootstrap_weights(num_samples: int, num_bootstrap: int, seed: int) -> Floats:
    """How often each sample is in each resample with replacement [num_bootstrap, num_samples]."""
    generator = np.random.default_rng(seed)
    shares = np.full(num_samples, 1 / num_samples)
    return generator.multinomial(num_samples, shares, size=num_bootstrap).astype(np.float64)


def over_sets(statistic: Statistic, weights: Floats) -> Floats:
    """`statistic` of each set [R] of `weights` [R, N]."""
    pieces = np.split(weights, range(ROWS_AT_ONCE, len(weights), ROWS_AT_ONCE))
    return np.concatenate([statistic(piece) for piece in pieces])


def spread(values: Floats) -> float:
    """Standard deviation of `values` [R] (one degree of freedom used).

    Sets that leave nothing to measure do not count. NaN for fewer than two, infinite if one is.
    """
    values = values[~np.isnan(values)]
    if np.isinf(values).any():
        return float("inf")
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def draw_weights(num_texts: int, num: int, num_draws: int, seed: int) -> Floats:
    """`num_draws` sets of `num` of the texts, none twice in a set [num_draws, num_texts]."""
    generator = np.random.default_rng(seed)
    weights = np.zeros((num_draws, num_texts))
    for row in weights:
        row[generator.choice(num_texts, size=num, replace=False)] = 1
    return weights


def _figure(name: str, value: float, stderr: float) -> dict[str, float | None]:
    """A figure and its error; null when there was nothing to measure.

    Raises:
        PipelineError: the figure is infinite, as a perplexity beyond exp(709) is.
    """
    if math.isinf(value) or math.isinf(stderr):
        raise PipelineError(f"{name} is infinite: the scorer finds these texts impossible")
    if math.isnan(value):
        return {name: None, f"{name}_stderr": None}
    return {name: value, f"{name}_stderr": None if math.isnan(stderr) else stderr}
