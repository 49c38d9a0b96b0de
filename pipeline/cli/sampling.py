"""A model, the options it is sampled with, and the samples."""

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.cli import options
from pipeline.cli.model import load_model
from pipeline.cli.template import Layout, Template
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import device_label, memory_for, pick_device
from pipeline.errors import DataError
from pipeline.progress import progress
from pipeline.sedd.model import SEDD
from pipeline.sedd.sampler import Predictor, sample


@dataclass(frozen=True)
class Batch:
    """Samples that are drawn together.

    Attributes:
        indices: their numbers, B of them.
        fixed: L ids imposed on each, FREE where the model decides; None if it decides all.
    """

    indices: Sequence[int]
    fixed: tuple[int, ...] | None


@dataclass(frozen=True)
class Sampling:
    """A model and how it is sampled."""

    model: SEDD
    tokenizer: TextTokenizer
    num_steps: int
    predictor: Predictor
    seed: int
    generator: torch.Generator
    batch_size: int
    show_states: bool

    @classmethod
    def start(cls, folder: Path, chosen: options.Chosen) -> "Sampling":
        """Load the model.

        Raises:
            PipelineError: the device or the model cannot be used.
        """
        device = pick_device(chosen.device)
        model, tokenizer = load_model(folder, device)
        return cls(
            model=model,
            tokenizer=tokenizer,
            num_steps=chosen.num_steps,
            predictor=chosen.predictor,
            seed=chosen.seed,
            generator=torch.Generator(device).manual_seed(chosen.seed),
            batch_size=chosen.batch_size,
            show_states=chosen.show_states,
        )

    def announce(self) -> None:
        """Say on stderr how the model is sampled: what it takes to draw the same again."""
        device = device_label(self.generator.device)
        note(f"{self.predictor}, {self.num_steps} steps, seed {self.seed}, {device}")

    def batches(self, indices: Sequence[int], fixed: tuple[int, ...] | None = None) -> list[Batch]:
        """Samples that share what is fixed, in batches of the chosen size."""
        return [
            Batch(indices[start : start + self.batch_size], fixed)
            for start in range(0, len(indices), self.batch_size)
        ]

    def draw(self, batches: Sequence[Batch], *, quiet: bool = False) -> Iterator[list[list[int]]]:
        """The samples of each batch as ids; states or progress go to stderr."""
        show = self.show_states and not quiet
        total = len(batches) * (self.num_steps + 1)
        bar = nullcontext() if show else progress(total=total, desc="sampling", unit="step")
        with bar:
            for batch in batches:
                watch = _Printer(self.tokenizer, batch.indices) if show else _Counter(bar)
                with memory_for("--batch-size"):
                    samples = sample(
                        self.model,
                        len(batch.indices),
                        num_steps=self.num_steps,
                        predictor=self.predictor,
                        generator=self.generator,
                        fixed=None if batch.fixed is None else torch.tensor(batch.fixed),
                        on_state=watch,
                    )
                yield samples.tokens.tolist()

    def choose_layouts(self, template: Template, num: int) -> list[Layout]:
        """One layout of `template` for each of `num` samples.

        Raises:
            DataError: no text that the model draws is long enough.
        """
        source = random.Random(self.seed)
        totals = [template.num_tokens]
        if template.num_unknown and template.num_tokens < template.length - 1:
            totals = self._draw_totals(template)
        return [template.layout(source.choice(totals), source) for _ in range(num)]

    def _draw_totals(self, template: Template) -> list[int]:
        """Lengths of the texts in one drawn batch that are long enough for `template`."""
        batch = Batch(range(self.batch_size), template.beginning)
        [drawn] = self.draw([batch], quiet=True)
        eos_id = self.tokenizer.eos_id
        lengths = [ids.index(eos_id) for ids in drawn if eos_id in ids]
        totals = [length for length in lengths if length >= template.num_tokens]
        if not totals:
            raise DataError(
                f"of {len(drawn)} texts drawn with this beginning, none has the "
                f"{template.num_tokens} tokens that the template needs: give its gaps a length "
                "(--gap N, or [N] in a template)"
            )
        return totals

    def fill(self, layouts: Sequence[Layout]) -> list[list[int]]:
        """One sample for each layout, in their order; equal layouts are drawn together."""
        places: dict[tuple[int, ...], list[int]] = {}
        for place, layout in enumerate(layouts):
            places.setdefault(layout.fixed, []).append(place)
        batches = [
            batch for fixed, indices in places.items() for batch in self.batches(indices, fixed)
        ]
        drawn: dict[int, list[int]] = {}
        for batch, samples in zip(batches, self.draw(batches), strict=True):
            drawn.update(zip(batch.indices, samples, strict=True))
        return [drawn[place] for place in range(len(layouts))]


class _Printer:
    """Prints each state of each sample on stderr, if it differs from the one before."""

    def __init__(self, tokenizer: TextTokenizer, indices: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._indices = indices
        self._shown: dict[int, str] = {}

    def __call__(self, step: int, t: float, xt: torch.Tensor) -> None:
        for index, ids in zip(self._indices, xt.tolist(), strict=True):
            text = self._tokenizer.show(ids)
            if self._shown.get(index) != text:
                self._shown[index] = text
                note(f"{index}\tstep {step}\tt {t:.4f}\t{text}")


class _Counter:
    """Counts steps on a progress bar."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def __call__(self, step: int, t: float, xt: torch.Tensor) -> None:
        # The first state comes before any step.
        if step:
            self._bar.update()


def note(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr)
