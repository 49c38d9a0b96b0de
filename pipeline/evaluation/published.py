"""Generative perplexity as the papers' code has it, for windows of running text.

No token stands before a text, so its first token is not scored. `sedd` scores the ids as they are,
as SEDD's code does (2310.16834): every other token, and the mean over samples of each one's own
exponential. `mdlm` is MDLM's (2406.07524): the text between ends in the scorer's own tokens again,
cut at the length that it can read; of ends only the first counts; one exponential of the mean over
all tokens. Published figures are of gpt2-large and samples of 1,024 tokens.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from pipeline.data.tokenizer import TextTokenizer
from pipeline.evaluation.gen_ppl import Likelihood, check_ids, nats_by_token
from pipeline.evaluation.samples import Floats, Ints, Samples
from pipeline.evaluation.scorer import Scorer
from pipeline.scale.units import UNKEPT, Units


def published(
    scorer: Scorer,
    samples: Samples,
    vocabulary: TextTokenizer,
    *,
    batch_size: int,
    units: Units = UNKEPT,
) -> dict[str, Likelihood]:
    """What the papers' protocols make of N windows of running text, by their names.

    Where re-tokenizing changes nothing, both come from one forward. `sedd` is left out for a scorer
    that reads text, whose ids the samples' are not, and for windows longer than it can read.

    Raises:
        DataError: a sample holds an id that the scorer does not know, or its tokenizer gives one.
        CheckpointError: the scorer gives a likelihood that is not finite.
    """
    length = samples.ids.shape[1]
    most = scorer.model.max_tokens or length
    ids = [row.tolist() for row in samples.ids]
    again = [row[:most] for row in retokenized(scorer, samples.ids, vocabulary)]
    takes_ids = scorer.tokenizer is None and length <= most
    sequences = {tuple(row): row for row in [*(ids if takes_ids else []), *again]}
    for rows in (ids if takes_ids else [], again):
        check_ids(scorer, rows, samples.index[: len(rows)])
    nats = nats_by_token(scorer, list(sequences.values()), batch_size=batch_size, units=units)
    by_sequence = dict(zip(sequences, nats, strict=True))
    eos = vocabulary.eos_id if scorer.tokenizer is None else scorer.start_id
    found = {"mdlm": _sums([by_sequence[tuple(row)] for row in again], counted(again, eos))}
    if takes_ids:
        every = [np.ones(length - 1) for _ in ids]
        found["sedd"] = _sums([by_sequence[tuple(row)] for row in ids], every)
    return found


def retokenized(scorer: Scorer, ids: Ints, vocabulary: TextTokenizer) -> list[list[int]]:
    """Windows ids [N, L] in the scorer's tokens, each end of text its own end."""
    rows = []
    for row in ids.tolist():
        again: list[int] = []
        for is_end, run in groupby(row, key=lambda id: id == vocabulary.eos_id):
            tokens = list(run)
            if is_end and scorer.tokenizer is None:
                again += tokens
            elif is_end:
                again += [scorer.start_id] * len(tokens)
            else:
                text = vocabulary.decode_all(tokens)
                again += (
                    vocabulary.encode(text)
                    if scorer.tokenizer is None
                    else scorer.encode([text])[0]
                )
        rows.append(again)
    return rows


def counted(sequences: Sequence[Sequence[int]], eos_id: int | None) -> list[Floats]:
    """1 for each token after the first that MDLM's code counts: all but ends after the first."""
    masks = []
    for tokens in sequences:
        is_end = np.array(tokens) == eos_id
        masks.append((~is_end | (is_end.cumsum() == 1))[1:].astype(np.float64))
    return masks


def _sums(nats: list[Floats], masks: list[Floats]) -> Likelihood:
    return Likelihood(
        np.array([values @ mask for values, mask in zip(nats, masks, strict=True)]),
        np.array([int(mask.sum()) for mask in masks], np.int64),
    )
