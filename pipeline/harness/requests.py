"""What lm-evaluation-harness asks of a model, as a diffusion model answers it, without the harness.

A text begins after an eos. What is scored of it is a target: its log-likelihood is the sum over
the target's tokens of minus the bound, in nats, given what stands before, which is never noised.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import DataError, ParamsError
from pipeline.kernels.precision import Precision, products_in
from pipeline.methods.draws import FREE
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
from pipeline.progress import progress
from pipeline.scale.seeds import step_seed

Window = tuple[list[int], int]
"""Ids that fit into a block, and how many of the last ones are the target."""


@dataclass(frozen=True)
class Answering:
    """A model with its tokenizer, and how it answers.

    Attributes:
        num_draws: forwards behind each likelihood, in antithetic pairs: an even number.
        num_steps: of sampling.
    """

    model: Model
    tokenizer: TextTokenizer
    precision: Precision
    num_draws: int
    num_steps: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if reason := method_of(self.model).cannot_condition(self.model):
            raise ParamsError(f"this model scores no text given another: {reason}")

    def generator(self) -> torch.Generator:
        """All randomness of the answers to one list of requests."""
        return torch.Generator(self.model.device).manual_seed(self.seed)

    def _eos(self) -> int:
        if (eos_id := self.tokenizer.eos_id) is None:
            raise DataError(
                "this model is of one text without an end (pack.mode: stream), and the harness "
                "asks for texts that begin"
            )
        return eos_id

    def split(self, context: str, target: str) -> tuple[list[int], int]:
        """Ids of eos, context and target, and how many of the first are no target.

        Both are encoded together, and blanks at the context's end belong to the target.

        Raises:
            DataError: the tokenizer does not know a character.
        """
        kept = context.rstrip()
        ids = self.tokenizer.encode_known(context + target)
        num_given = len(self.tokenizer.encode_known(kept))
        return [self._eos(), *ids], 1 + num_given

    def log_likelihoods(self, texts: Sequence[tuple[list[int], int]]) -> list[float]:
        """Minus the bound, nats [n], of each text past its given ids; 0 where nothing is past them.

        Texts longer than a block are scored in windows, each token once.
        """
        windows, owners = self._windows(texts)
        total = torch.zeros(len(texts), dtype=torch.float64)
        lengths = progress(_of_a_length(windows), desc="likelihoods", unit="length")
        for number, places in enumerate(lengths):
            x0, target = self._rows([windows[place] for place in places])
            with products_in(self.precision, self.model.device):
                bound = method_of(self.model).draw_bound(
                    self.model,
                    x0,
                    num_replicates=1,
                    num_draws=self.num_draws,
                    batch_size=self.batch_size,
                    seed=step_seed(self.seed, "length", number),
                    known=~target,
                )
            total.index_add_(0, owners[places], -bound.total.squeeze(0))
        return total.tolist()

    def are_likeliest(self, texts: Sequence[tuple[list[int], int]]) -> list[bool]:
        """Whether each target token is the likeliest, all of a window asked for in one forward.

        Raises:
            ValueError: what the model says depends on more than the tokens before.
        """
        windows, owners = self._windows(texts)
        right = torch.ones(len(texts), dtype=torch.bool)
        for places in _of_a_length(windows):
            for part in torch.split(torch.tensor(places), self.batch_size):
                x0, target = self._rows([windows[place] for place in part.tolist()])
                with products_in(self.precision, self.model.device):
                    found = method_of(self.model).likeliest(
                        self.model, x0.masked_fill(target, FREE)
                    )
                rows = ((found == x0) | ~target).all(-1).cpu()
                right[owners[part][~rows]] = False
        return right.tolist()

    def continuation(
        self, context: str, most: int, until: Sequence[str], generator: torch.Generator
    ) -> str:
        """Text drawn after a context, cut before an eos and before the first of `until`.

        As many tokens as `most` are drawn at once; the context's first ones make room for them.

        Raises:
            DataError: a block has no room for so many, or a character is unknown.
        """
        if not 0 < most < self.model.length:
            raise DataError(
                f"max_gen_toks must be from 1 to {self.model.length - 1}, as a block of this model "
                f"has {self.model.length} tokens (got {most})"
            )
        ids = [self._eos(), *self.tokenizer.encode_known(context)]
        ids = ids[-(self.model.length - most) :]
        fixed = torch.tensor([*ids, *[FREE] * most], device=self.model.device)
        with products_in(self.precision, self.model.device):
            drawn = method_of(self.model).sample(
                self.model,
                1,
                num_steps=self.num_steps,
                predictor="auto",
                generator=generator,
                length=len(fixed),
                fixed=fixed,
            )
        new = drawn.tokens[0, len(ids) :].tolist()
        if self._eos() in new:
            new = new[: new.index(self._eos())]
        text = self.tokenizer.decode_all(new)
        ends = [text.index(stop) for stop in until if stop and stop in text]
        return text[: min(ends, default=len(text))]

    def _windows(self, texts: Sequence[tuple[list[int], int]]) -> tuple[list[Window], Tensor]:
        """Windows of all texts, and the place of each one's text [W]."""
        windows, owners = [], []
        for place, (ids, num_given) in enumerate(texts):
            found = windows_of(ids, num_given, self.model.length)
            windows += found
            owners += [place] * len(found)
        return windows, torch.tensor(owners, dtype=torch.long)

    def _rows(self, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """Ids [B, L] of windows of one length, and which are targets [B, L]."""
        x0 = torch.tensor([ids for ids, _ in windows], device=self.model.device)
        num = torch.tensor([num for _, num in windows], device=self.model.device)
        return x0, torch.arange(-x0.shape[1], 0, device=self.model.device) >= -num[:, None]


def windows_of(ids: list[int], num_given: int, length: int) -> list[Window]:
    """Windows of `length` ids at most that score each id past the first `num_given` >= 1 once.

    One where the target leaves room for an id before it, else as few as can be; each has as much
    before its target as fits.
    """
    windows, done = [], num_given
    while done < len(ids):
        # Something stands before the first token of all: what a text begins with.
        end = min(len(ids), done + length - (done == num_given))
        windows.append((ids[max(0, end - length) : end], end - done))
        done = end
    return windows


def _of_a_length(windows: Sequence[Window]) -> list[list[int]]:
    """Places of windows of the same length."""
    by_length: dict[int, list[int]] = {}
    for place, (ids, _) in enumerate(windows):
        by_length.setdefault(len(ids), []).append(place)
    return list(by_length.values())
