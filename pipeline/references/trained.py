"""Figures of a run beside those of models that were trained on the same text, where they agree."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.config.sections import Section
from pipeline.errors import DataError
from pipeline.files import read_as
from pipeline.references.tables import rows_of

TEXT8 = "text8, every block of 256 of the test split"
GEN_PPL = {
    "gen_ppl_mdlm": (
        "gen_ppl_mdlm of 1,024 tokens at 1,024 steps, draws in float64",
        "entropy_per_sample",
        800,
    ),
    "gen_ppl_sedd": (
        "gen_ppl_sedd of 1,024 tokens at 1,024 steps, draws in float64",
        "entropy_per_sample_bits",
        1_024,
    ),
}
"""Variant of generative perplexity -> its table's protocol, entropy, and number of samples."""


class Mine(Section):
    """A figure of ours for a table of references.yaml.

    Attributes:
        key: what figures are called.
        protocol: of the table.
        name: what a reader calls it.
        data: what the model was trained on.
        cells: what stands in the table's columns.
        differs: why it may not stand there; empty where it may.
    """

    key: str
    protocol: str
    name: str
    data: str
    cells: list[str]
    differs: list[str]

    @property
    def line(self) -> str:
        """The figure, and the published ones it may stand beside or else why none."""
        shown = ", ".join(self.cells)
        if self.differs:
            return f"{shown}; in no table: {'; '.join(self.differs)}"
        theirs = (", ".join([model, *cells]) for model, _, *cells, _ in rows_of(self.protocol))
        return f"{shown}; published: {'; '.join(theirs)}"


class _Results(BaseModel):
    references: list[Mine] | None = None


def reported(path: Path) -> list[Mine]:
    """The figures that the last report found, in its results.json.

    Raises:
        FileNotFoundError: there is no report.
        DataError: it is damaged, or of a version that had none.
    """
    found = read_as(path, _Results).references
    if found is None:
        raise DataError(f"{path} is of an older version: run dvc repro")
    return found


@dataclass(frozen=True)
class Trained:
    """What decides whether figures of a run may stand beside published ones.

    Attributes:
        data: where the texts come from.
        mode: `pack.mode`.
        length: tokens a block and a sample.
        vocab_size: tokens.
        num_blocks: held-out blocks.
        num_texts: those that were bounded.
        bits_per_char: the bound, and `stderr`, its error.
        drawn_by: a sample's row: its temperature and all else that it was drawn by.
        num_samples: texts behind each figure of samples.
        scorer: of generative perplexity, by its name alone.
        scores: figures of the samples at `num_steps` and their errors, by key.
    """

    data: str
    mode: str
    length: int
    vocab_size: int
    num_blocks: int
    num_texts: int
    bits_per_char: float
    stderr: float
    num_steps: int
    drawn_by: Mapping[str, Any]
    num_samples: int
    scorer: str
    scores: Mapping[str, float | None]


def figures_of(run: Trained) -> list[Mine]:
    """Bits a character and generative perplexities, each for the table that it would stand in."""
    return [_text8(run), *(_samples(run, key) for key in GEN_PPL)]


def _text8(run: Trained) -> Mine:
    wanted = {
        f"pack.mode {run.mode}, the table's is stream": run.mode == "stream",
        f"blocks of {run.length:,} tokens, the table's have 256": run.length == 256,
        f"{run.vocab_size:,} tokens, the table's are 27 characters": run.vocab_size == 27,
        f"{run.num_blocks:,} held-out blocks, text8's test split has 19,531": (
            run.num_blocks == 19_531
        ),
        f"{run.num_texts:,} of them bounded": run.num_texts == run.num_blocks,
    }
    cells = [f"≤ {run.bits_per_char:.3f} ± {run.stderr:.3f}"]
    return _mine("bits_per_char", TEXT8, "bits a character", run.data, cells, wanted)


def _samples(run: Trained, key: str) -> Mine:
    protocol, entropy, least = GEN_PPL[key]
    value, drawn_by = run.scores[key], run.drawn_by
    wanted = {
        "it is of running text in GPT-2's tokens alone": value is not None,
        f"scored by {run.scorer}, the table's by gpt2-large": run.scorer == "gpt2-large",
        f"{run.length:,} tokens a sample, the table's have 1,024": run.length == 1_024,
        f"{run.num_steps:,} steps, the table's 1,024": run.num_steps == 1_024,
        f"{run.num_samples:,} samples, the table's are {least:,}": run.num_samples >= least,
    }
    usual = {"temperature": 1, "top_p": 1, "order": "random", "corrector": "none"}
    wanted |= {
        f"{name} {drawn_by[name]}, the table's {theirs}": drawn_by[name] == theirs
        for name, theirs in usual.items()
        if name in drawn_by
    }
    cells = [_shown(run.scores, each) for each in (key, entropy)]
    return _mine(key, protocol, f"{key}, {entropy}", run.data, cells, wanted)


def _mine(
    key: str, protocol: str, name: str, data: str, cells: list[str], wanted: Mapping[str, bool]
) -> Mine:
    differs = [differs for differs, is_met in wanted.items() if not is_met]
    return Mine(key=key, protocol=protocol, name=name, data=data, cells=cells, differs=differs)


def _shown(scores: Mapping[str, float | None], key: str) -> str:
    value, stderr = scores[key], scores[f"{key}_stderr"]
    if value is None:
        return "not measured"
    return f"{value:.2f}" if stderr is None else f"{value:.2f} ± {stderr:.2f}"
