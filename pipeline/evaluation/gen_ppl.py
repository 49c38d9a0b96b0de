"""Generative perplexity: how likely a language model that has not made the samples finds them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import CheckpointError, DataError
from pipeline.evaluation.causal import CausalLM
from pipeline.evaluation.diversity import Statistic, mean_of, ratio_of
from pipeline.evaluation.samples import Floats, Ints, Samples
from pipeline.evaluation.scorer import Scorer
from pipeline.scale.units import UNKEPT, Result, Units

MAX_TOKENS = 4096
"""Tokens in a forward, more only in one of a single text: 50 kB each with GPT-2's smallest."""
MAX_PADDING = 0.125
"""Share of a forward that may be padding."""


@dataclass(frozen=True)
class Likelihood:
    """What a scorer makes of N texts.

    Attributes:
        nats: negative log likelihood of each text [N], float64; 0 where nothing is scored.
        num_tokens: tokens of it that were scored [N].
    """

    nats: Floats
    num_tokens: Ints

    @property
    def scored(self) -> Ints:
        """1 for a text with a token to score, 0 for an excluded one [N]."""
        return (self.num_tokens > 0).astype(np.int64)

    @property
    def gen_ppl(self) -> Statistic:
        """exp of the mean over all tokens of a set, as in MDLM (2406.07524)."""
        mean = ratio_of(self.nats, self.num_tokens)
        return lambda weights: _exp(mean(weights))

    @property
    def gen_ppl_mean_of_exp(self) -> Statistic:
        """Mean of the scored texts' own perplexities, as in the code of SEDD (2310.16834)."""
        per_text = _exp(self.nats / np.maximum(self.num_tokens, 1))
        return mean_of(per_text, self.scored)


@dataclass(frozen=True)
class _Window:
    """Part of text `sample`: `ids`, the last `num_scored` of which are predicted."""

    sample: int
    ids: list[int]
    num_scored: int


def likelihood(
    scorer: Scorer, samples: Samples, *, eos_id: int | None, batch_size: int, units: Units = UNKEPT
) -> Likelihood:
    """Score every sample by the protocol of `scorer`.

    A scorer of token ids (the baseline, or one with the samples' own tokenizer) begins with its
    start token and scores each id through the first eos, all of running text. Any other
    reads the decoded text in its own tokens, after its own start token, and scores these; it has
    no end to score, so an empty text is excluded. A text longer than a scorer can read is scored
    in windows that overlap by half: each token once, with at least half a window before it.

    Raises:
        DataError: a sample holds an id that the scorer does not know, or its tokenizer gives one.
        CheckpointError: the scorer gives a likelihood that is not finite.
    """
    if scorer.tokenizer is None:
        sequences = [
            row[:num].tolist()
            for row, num in zip(samples.ids, samples.num_tokens(eos_id), strict=True)
        ]
    else:
        sequences = scorer.encode(samples.texts)
    check_ids(scorer, sequences, samples.index)
    windows = [
        window
        for sample, tokens in enumerate(sequences)
        for window in _windows(sample, tokens, scorer)
    ]
    found = Likelihood(np.zeros(len(samples)), np.array([len(s) for s in sequences], np.int64))
    batches = _batches(windows, batch_size, scorer.model.pads)

    def nats(index: int) -> Result:
        of_tokens = _token_nats(scorer.model, batches[index])
        return {"nats": torch.stack([each.sum() for each in of_tokens])}

    for batch, result in zip(batches, units.in_order(len(batches), nats), strict=True):
        np.add.at(found.nats, [window.sample for window in batch], result["nats"].numpy())
    wrong = samples.index[~np.isfinite(found.nats)]
    if len(wrong):
        raise CheckpointError(
            f"the scorer {scorer.name} gives no finite likelihood for {len(wrong)} of "
            f"{len(samples)} texts, the first is {wrong[0]}: its weights are damaged"
        )
    return found


def nats_by_token(
    scorer: Scorer, sequences: Sequence[list[int]], *, batch_size: int, units: Units = UNKEPT
) -> list[Floats]:
    """Nats of each token but the first of sequences that the scorer can read, nothing before them.

    Raises:
        CheckpointError: the scorer gives a likelihood that is not finite.
    """
    found = [np.zeros(0)] * len(sequences)
    windows = [_Window(i, ids, len(ids) - 1) for i, ids in enumerate(sequences) if len(ids) > 1]
    batches = _batches(windows, batch_size, scorer.model.pads)

    def nats(index: int) -> Result:
        return {"nats": torch.cat(_token_nats(scorer.model, batches[index]))}

    for batch, result in zip(batches, units.in_order(len(batches), nats), strict=True):
        if not result["nats"].isfinite().all():
            raise CheckpointError(
                f"the scorer {scorer.name} gives no finite likelihood: its weights are damaged"
            )
        of_windows = torch.split(result["nats"], [window.num_scored for window in batch])
        for window, each in zip(batch, of_windows, strict=True):
            found[window.sample] = each.numpy()
    return found


def last_states(
    scorer: Scorer, sequences: Sequence[list[int]], *, batch_size: int, units: Units = UNKEPT
) -> Floats:
    """The model's last hidden state [N, D] of the last token of each of N sequences it can read.

    Raises:
        DataError: there is an id that the scorer does not know.
        CheckpointError: a state is not finite.
    """
    check_ids(scorer, sequences, np.arange(len(sequences)))
    found = [np.zeros(0)] * len(sequences)
    windows = [_Window(place, ids, 0) for place, ids in enumerate(sequences)]
    batches = _batches(windows, batch_size, scorer.model.pads)

    @torch.inference_mode()
    def states(index: int) -> Result:
        ids = [torch.tensor(window.ids, device=scorer.model.device) for window in batches[index]]
        last = torch.tensor([len(text) for text in ids], device=scorer.model.device).cumsum(0) - 1
        return {"states": scorer.model.hidden(ids)[last].double()}

    for batch, result in zip(batches, units.in_order(len(batches), states), strict=True):
        if not result["states"].isfinite().all():
            raise CheckpointError(
                f"the scorer {scorer.name} gives no finite states: its weights are damaged"
            )
        for window, state in zip(batch, result["states"].numpy(), strict=True):
            found[window.sample] = state
    return np.stack(found) if found else np.zeros((0, 0))


def check_ids(scorer: Scorer, sequences: Sequence[list[int]], index: Ints) -> None:
    """Refuse tokens that the scorer does not know, of sequences that are called `index` [N]."""
    of_whom = "" if scorer.tokenizer is None else " for its own tokenizer"
    for name, tokens in zip(index, sequences, strict=True):
        unknown = [id for id in (scorer.start_id, *tokens) if not 0 <= id < scorer.model.vocab_size]
        if unknown:
            raise DataError(
                f"sample {name} holds the token id {unknown[0]}{of_whom}, and the model of the "
                f"scorer {scorer.name} knows 0 to {scorer.model.vocab_size - 1}"
            )


def _windows(sample: int, tokens: list[int], scorer: Scorer) -> Iterator[_Window]:
    ids = [scorer.start_id, *tokens]
    width = scorer.model.max_tokens or len(tokens)
    done = 0
    while done < len(tokens):
        num_scored = min(len(tokens) - done, width if done == 0 else max(1, width // 2))
        done += num_scored
        yield _Window(sample, ids[max(0, done - width) : done + 1], num_scored)


def _batches(windows: list[_Window], batch_size: int, pads: bool) -> list[list[_Window]]:
    """Windows of like length together, the longest first: too little memory shows at once.

    A batch ends where one more window would make it too large, or too much of it padding.
    """
    batches: list[list[_Window]] = []
    num_real = 0
    for window in sorted(windows, key=lambda window: -len(window.ids)):
        batch = batches[-1] if batches else []
        num_real += len(window.ids)
        num_tokens = (len(batch) + 1) * len(batch[0].ids) if batch and pads else num_real
        is_full = len(batch) == batch_size or num_tokens > MAX_TOKENS
        if not batch or is_full or num_real < (1 - MAX_PADDING) * num_tokens:
            batches.append([window])
            num_real = len(window.ids)
        else:
            batch.append(window)
    return batches


@torch.inference_mode()
def _token_nats(model: CausalLM, batch: list[_Window]) -> tuple[Tensor, ...]:
    """Negative log likelihood of each window's scored tokens, one [num_scored] each, float64."""
    ids = [torch.tensor(window.ids, device=model.device) for window in batch]
    scored = [window.num_scored for window in batch]
    at = torch.cat(
        [
            torch.arange(1 - len(text), 0, device=model.device) >= -num
            for text, num in zip(ids, scored, strict=True)
        ]
    )
    targets = torch.cat([text[-num:] for text, num in zip(ids, scored, strict=True)])
    nats = model.nats(model.states([text[:-1] for text in ids])[at], targets)
    return torch.split(nats.double(), scored)


def _exp(nats: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.exp(nats)
