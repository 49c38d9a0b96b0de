"""A model, the options it is sampled with, and the samples."""

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.checkpoints.checkpoint import block_mode, checkpoint_config
from pipeline.cli.chosen import Chosen
from pipeline.cli.model import load_model
from pipeline.cli.template import Layout, Template
from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.device import device_label, memory_for, pick_device
from pipeline.errors import DataError, ParamsError
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
from pipeline.progress import progress
from pipeline.scale.seeds import seeded
from pipeline.table import shown

# States at positions that are drawn together: larger batches gain little, and a text shows late.
MAX_ENTRIES = 2**27


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

    model: Model
    tokenizer: TextTokenizer
    chosen: Chosen
    batch_size: int
    text_lengths: list[int] | None
    mode: Mode

    @classmethod
    def start(cls, folder: Path, chosen: Chosen) -> "Sampling":
        """Load the model.

        Raises:
            PipelineError: the device or the model cannot be used, or not with what is chosen.
        """
        return cls.of(*load_model(folder, pick_device(chosen.device)), folder, chosen)

    @classmethod
    def of(cls, model: Model, tokenizer: TextTokenizer, folder: Path, chosen: Chosen) -> "Sampling":
        """A model that was loaded from `folder`.

        Raises:
            PipelineError: it cannot be used with what is chosen.
        """
        try:
            predictor = method_of(model).resolve(
                model,
                chosen.predictor,
                chosen.temperature,
                chosen.top_p,
                chosen.stepping,
                chosen.conditioning,
            )
        except ValueError as error:
            raise ParamsError(f"{folder}: {error}") from None
        return cls(
            model=model,
            tokenizer=tokenizer,
            chosen=replace(chosen, predictor=predictor),
            batch_size=chosen.batch_size or default_batch_size(model),
            text_lengths=checkpoint_config(folder)["text_lengths"],
            mode=block_mode(folder),
        )

    def announce(self) -> None:
        """Say on stderr how the model is sampled: what it takes to draw the same again."""
        how, device = self.chosen, device_label(self.model.device)
        note(f"{how.predictor}, {how.num_steps} steps, seed {how.seed}, {device}")
        if (how.temperature, how.top_p) != (1, 1):
            note(f"temperature {how.temperature:g}, top-p {how.top_p:g}: not the model's own law")
        if asked := how.conditioning.labels:
            labels = ", ".join(f"{column}={value}" for column, value in asked.items())
            note(shown(f"{labels}, guidance {how.conditioning.guidance:g}"))
        if said := how.stepping.said():
            own = "" if how.stepping.keeps_law else ": not the model's own law"
            note(", ".join(f"{name} {value}" for name, value in said.items()) + own)

    def batches(self, indices: Sequence[int], fixed: tuple[int, ...] | None = None) -> list[Batch]:
        """Samples that share what is fixed, in batches of the chosen size."""
        return [
            Batch(indices[start : start + self.batch_size], fixed)
            for start in range(0, len(indices), self.batch_size)
        ]

    def draw(self, batches: Sequence[Batch]) -> Iterator[list[list[int]]]:
        """The samples of each batch as ids; states or progress go to stderr."""
        how, show = self.chosen, self.chosen.show_states
        total = len(batches) * (how.num_steps + 1)
        bar = progress(total=total, desc="sampling", unit="step", hidden=show)

        def count(step: int, t: float, xt: torch.Tensor) -> None:
            bar.update(min(step, 1))  # The first state comes before any step.

        with bar:
            for number, batch in enumerate(batches):
                watch = _Printer(self.tokenizer, batch.indices) if show else count
                with memory_for("--batch-size"):
                    samples = method_of(self.model).sample(
                        self.model,
                        len(batch.indices),
                        num_steps=how.num_steps,
                        predictor=how.predictor,
                        temperature=how.temperature,
                        top_p=how.top_p,
                        stepping=how.stepping,
                        conditioning=how.conditioning,
                        generator=seeded(self.model.device, how.seed, "sample", number),
                        fixed=None if batch.fixed is None else torch.tensor(batch.fixed),
                        on_state=watch,
                    )
                yield samples.tokens.tolist()

    def choose_layouts(self, template: Template, num: int) -> list[Layout]:
        """One layout of `template` for each of `num` samples.

        Raises:
            DataError: no training text is long enough, or the model does not know their lengths.
        """
        source = random.Random(self.chosen.seed)
        totals, weights = [template.num_tokens], [1]
        if template.num_unknown and template.num_tokens < template.most:
            totals, weights = self._long_enough(template.num_tokens)
        chosen = source.choices(totals, weights, k=num)
        return [template.layout(total, source) for total in chosen]

    def _long_enough(self, least: int) -> tuple[list[int], list[int]]:
        """Lengths of training texts of at least `least` tokens, and how many have each."""
        given = "give its gaps a length (--gap N, or [N] in a template)"
        if self.text_lengths is None:
            raise DataError(
                "this model was trained on running text, in windows that say nothing of how long "
                f"its texts were: {given}"
            )
        totals = [n for n, count in enumerate(self.text_lengths) if count and n >= least]
        if not totals:
            raise DataError(
                f"no training text has the {least} tokens that the template needs: {given}"
            )
        return totals, [self.text_lengths[n] for n in totals]

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


def default_batch_size(model: Model) -> int:
    """128 texts, fewer where each takes long: they are shown when their batch is done."""
    return max(1, min(128, MAX_ENTRIES // (model.length * model.config.vocab_size)))


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


def note(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr)
