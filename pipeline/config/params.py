"""params.yaml as frozen models: it checks values and never computes or supplies one."""

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from pipeline.config.methods import SECTIONS, Diffusion, Embedding
from pipeline.config.publish import Publish
from pipeline.config.sections import (
    Count,
    Fraction,
    Positive,
    Precision,
    Real,
    RepositoryPath,
    Section,
    Seed,
    Steps,
    Text,
)
from pipeline.config.strict_yaml import parse, read_text
from pipeline.config.zero_shot import ZeroShot
from pipeline.errors import ParamsError, PipelineError
from pipeline.files import from_root
from pipeline.methods.samplers import (
    ABILITIES,
    Conditioning,
    Corrector,
    Grid,
    Order,
    PredictorName,
    Stepping,
    label_misuses,
    misuses,
    values_of,
)

Id = Annotated[int, Field(ge=0, lt=2**31)]
Edge = Annotated[int | float, Field(allow_inf_nan=False)]
# As written: 1 and 1.0 are files of two names.
Temperature = Annotated[int | float, Field(gt=0, allow_inf_nan=False)]
RENAMED = {"network": "oxen"}
"""Keys of params.yaml that were called otherwise."""
CHECKPOINT = "artifacts/checkpoint"
"""What training writes, in dvc.yaml."""
MOST_MISTAKES = 20
SHORT = Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 80
SHORT.maxlevel = 3


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return name


class DataFiles(Section):
    """Files of the repository for each split: a path, or a pattern."""

    train: RepositoryPath
    test: RepositoryPath | None

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.train == self.test:
            raise ValueError(f"train and test must be different files (both are {self.train})")
        return self


class Label(Section):
    """A column that says something of each document: by its values, or by ranges of numbers."""

    column: Text
    edges: Annotated[list[Edge], Field(min_length=1)] | None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        # A column's name alone stands for its values as they are.
        return {"column": value, "edges": None} if isinstance(value, str) else value

    @field_validator("edges")
    @classmethod
    def _rise(cls, edges: list[float] | None) -> list[float] | None:
        if edges and sorted(set(edges)) != edges:
            raise ValueError("must rise")
        return edges


class Data(Section):
    """Where the documents come from."""

    repo: Text
    revision: Text
    files: DataFiles
    holdout: Annotated[Real, Field(gt=0, lt=1)]
    column: Text
    max_overlap: Annotated[Real, Field(ge=0, le=1)]
    labels: list[Label]

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        columns = [self.column, *(label.column for label in self.labels)]
        if twice := sorted(name for name, times in Counter(columns).items() if times > 1):
            raise ValueError(
                f"labels must be of columns that differ, and from that of the text (twice or "
                f"more: {', '.join(twice)})"
            )
        return self


class Patience(Section):
    """Patience with Oxen repositories over http(s)."""

    connect_seconds: Annotated[Real, Field(gt=0, le=10)]
    stall_seconds: Positive
    retries: Annotated[int, Field(ge=0, lt=2**31)]


ModelType = Literal["bpe", "unigram"]


class SentencePiece(Section):
    """What SentencePiece learns, and the ids of its special pieces."""

    model_type: ModelType
    bos: Id
    eos: Id
    pad: Id
    unk: Id

    @model_validator(mode="after")
    def _differ(self) -> Self:
        ids = self.model_dump(exclude={"model_type"})
        if len(set(ids.values())) < len(ids):
            got = ", ".join(f"{name} {id}" for name, id in ids.items())
            raise ValueError(f"ids must differ (got {got})")
        return self


class Tokenizer(Section):
    """How text becomes ids, with the section of every kind."""

    kind: Literal["char", "bpe", "sentencepiece", "gpt2"]
    vocab_size: Annotated[int, Field(lt=2**31)]
    source: Text
    char: Section
    bpe: Section
    sentencepiece: SentencePiece
    gpt2: Section

    @model_validator(mode="after")
    def _holds_all_bytes(self) -> Self:
        if self.vocab_size < 258:
            raise ValueError(
                "vocab_size must be at least 258, for the 256 bytes, pad and eos "
                f"(got {self.vocab_size})"
            )
        return self

    @model_validator(mode="after")
    def _holds_special_pieces(self) -> Self:
        pieces = self.sentencepiece
        last = max(pieces.bos, pieces.eos, pieces.pad, pieces.unk)
        if self.kind == "sentencepiece" and last >= self.vocab_size:
            raise ValueError(
                f"ids of sentencepiece must be less than vocab_size, {self.vocab_size} (got {last})"
            )
        return self


class Pack(Section):
    """How documents become blocks of `length` tokens."""

    mode: Literal["pad", "concat", "stream"]
    length: Annotated[int, Field(ge=2, lt=2**31)]


class Transformer(Section):
    """Sizes shared by the score network and the baseline."""

    width: Count
    num_blocks: Count
    num_heads: Count
    dropout: Fraction

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.num_heads or self.width // self.num_heads % 2:
            raise ValueError(
                f"num_heads must divide width ({self.width}) into an even number of parts' width "
                f"(num_heads is {self.num_heads})"
            )
        return self


class Model(Transformer):
    """The score network."""

    cond_dim: Count


class Optimizing(Section):
    """One training run, whatever the network."""

    batch_size: Count
    accumulate: Count
    lr: Positive
    warmup_steps: Annotated[int, Field(ge=0, lt=2**31)]
    decay: Literal["linear", "none"]
    weight_decay: Annotated[Real, Field(ge=0)]
    beta1: Fraction
    beta2: Fraction
    clip: Positive
    ema: Fraction
    precision: Precision
    deterministic: bool
    seed: Seed
    log_every: Count
    eval_every: Count
    eval_blocks: Count
    checkpoint_every: Count

    @model_validator(mode="after")
    def _accumulate_divides_batch(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate ({self.accumulate}) must divide batch_size ({self.batch_size})"
            )
        return self


class Train(Optimizing):
    """Training of the score network."""

    init: Text | None
    init_revision: Text | None
    num_steps: Annotated[int, Field(ge=0, lt=2**31)]
    label_dropout: Fraction
    compile: Literal[False, True, "graphs"]
    activation_checkpointing: bool
    sample_every: Count
    sample_num: Count
    sample_steps: Steps

    @field_validator("init")
    @classmethod
    def _is_no_output(cls, init: str | None) -> str | None:
        if init is not None and from_root(init).is_relative_to(from_root(CHECKPOINT)):
            raise ValueError(
                f"must be another folder than {CHECKPOINT}, which DVC empties before training: "
                "copy that one elsewhere"
            )
        return init

    @model_validator(mode="after")
    def _trains(self) -> Self:
        if self.num_steps == 0 and self.init is None:
            raise ValueError(
                "num_steps must be at least 1 (got 0), unless init names weights to keep"
            )
        if 0 < self.num_steps <= self.warmup_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be less than num_steps ({self.num_steps})"
            )
        return self


class Baseline(Transformer, Optimizing):
    """The autoregressive GPT-2 beside it."""

    num_tokens: Annotated[int, Field(ge=1, lt=2**53)]


class Evaluate(Section):
    """The Monte Carlo bound."""

    num_replicates: Annotated[int, Field(ge=16, lt=2**31)]
    # Draws come in antithetic pairs.
    num_draws: Annotated[int, Field(ge=2, lt=2**31, multiple_of=2)]
    batch_size: Count
    precision: Precision
    seed: Seed


class Sample(Section):
    """Sampling at each step count."""

    num: Count
    predictor: PredictorName
    temperature: Positive
    top_p: Annotated[Real, Field(gt=0, le=1)]
    grid: Grid
    order: Order
    gamma: Annotated[Real, Field(ge=0)]
    corrector: Corrector
    eta: Annotated[Real, Field(gt=0, le=1)]
    hold: Annotated[Real, Field(gt=0, lt=1)]
    num_redrawn: Count
    labels: Literal["each"] | list[Text]
    guidance: Annotated[Real, Field(ge=0)]
    batch_size: Count
    num_traced: Annotated[int, Field(ge=0, lt=2**31)]
    precision: Precision
    seed: Seed

    @field_validator("labels")
    @classmethod
    def _say(cls, labels: str | list[str]) -> str | list[str]:
        if not isinstance(labels, str):
            values_of(labels)
        return labels

    @property
    def stepping(self) -> Stepping:
        """Times, order and corrections of the steps."""
        return Stepping(**self.model_dump(include={each.name for each in fields(Stepping)}))

    @property
    def conditioning(self) -> Conditioning | None:
        """What all samples are asked for; None where it is each combination of labels in turn."""
        if self.labels == "each":
            return None
        return Conditioning(values_of(self.labels), self.guidance)


class Score(Section):
    """Scoring of samples and of real text."""

    scorer: Text
    scorer_revision: Text | None
    precision: Precision
    batch_size: Count
    num_bootstrap: Annotated[int, Field(ge=2, lt=2**31)]
    num_real_draws: Annotated[int, Field(ge=2, lt=2**31)]
    mauve_seeds: list[Seed]
    seed: Seed

    @field_validator("mauve_seeds")
    @classmethod
    def _differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"must differ (got {', '.join(map(str, seeds))})")
        return seeds


class Report(Section):
    """The page."""

    num_samples: Count


class Tracking(Section):
    """MLflow."""

    uri: Text
    experiment: Text


class Params(Section):
    """All of params.yaml."""

    steps: Steps
    sweep: list[Steps]
    temperatures: list[Temperature]
    method: Literal["sedd", "embedding"]
    diffusion: Diffusion
    embedding: Embedding
    model: Model
    train: Train
    sample: Sample
    data: Data
    tokenizer: Tokenizer
    pack: Pack
    baseline: Baseline
    evaluate: Evaluate
    score: Score
    zero_shot: ZeroShot
    report: Report
    tracking: Tracking
    publish: Publish
    device: Annotated[str, AfterValidator(_device)]
    oxen: Patience

    @field_validator("sweep", "temperatures")
    @classmethod
    def _differ(cls, values: list[float]) -> list[float]:
        if twice := [str(value) for value, times in Counter(values).items() if times > 1]:
            raise ValueError(f"values must differ (twice or more: {', '.join(twice)})")
        return values

    @property
    def of_method(self) -> Diffusion | Embedding:
        """The section of the method in use."""
        section: Diffusion | Embedding = getattr(self, SECTIONS[self.method])
        return section

    @model_validator(mode="after")
    def _exports_a_score(self) -> Self:
        if self.publish.huggingface is not None and self.method != "sedd":
            raise ValueError(f"publish.huggingface must be null with method {self.method}")
        if self.publish.huggingface is not None and self.data.labels:
            raise ValueError(
                "publish.huggingface must be null with data.labels: an export holds a score of "
                "texts alone"
            )
        return self

    @model_validator(mode="after")
    def _samples_its_model(self) -> Self:
        how, (kind, called) = self.sample, self.of_method.sampled
        if found := misuses(
            kind, called, how.predictor, how.temperature, how.top_p, how.stepping, "sample."
        ):
            raise ValueError("; ".join(found))
        return self

    @model_validator(mode="after")
    def _streams_characters(self) -> Self:
        if self.pack.mode == "stream" and self.tokenizer.kind != "char":
            raise ValueError(
                "pack.mode stream is of characters: tokenizer.kind must be char "
                f"(got {self.tokenizer.kind}); concat takes any"
            )
        if self.pack.mode == "stream" and self.data.files.test is None and self.data.holdout >= 0.5:
            raise ValueError(
                "data.holdout must be below 0.5 with pack.mode stream, which takes two such parts "
                f"from the end (got {self.data.holdout:g})"
            )
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        (kind, called), columns = self.of_method.sampled, [each.column for each in self.data.labels]
        got = SHORT.repr(columns)
        found = []
        if columns and not ABILITIES[kind].takes_labels:
            able = ", ".join(name for name, can in ABILITIES.items() if can.takes_labels)
            found.append(
                f"data.labels must be [] with {called}: only {able} takes labels (got {got})"
            )
        if columns and self.pack.mode != "pad":
            found.append(
                f"data.labels must be [] with pack.mode {self.pack.mode}, whose blocks are no "
                f"single documents (got {got})"
            )
        asked = self.sample.conditioning
        if asked is None:
            asked = Conditioning({}, 1.0 if columns else self.sample.guidance)
        found += label_misuses(dict.fromkeys(columns), asked, "sample.")
        if found:
            raise ValueError("; ".join(found))
        return self

    @model_validator(mode="after")
    def _has_temperatures(self) -> Self:
        kind, called = self.of_method.sampled
        if self.temperatures and not ABILITIES[kind].sharpens:
            raise ValueError(
                f"temperatures must be [] with {called}, whose samples have none "
                f"(got {SHORT.repr(self.temperatures)})"
            )
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check `path`.

    Raises:
        ParamsError: the file is missing or no YAML, or values are wrong; every mistake is listed
            with its path in the file and the value got.
    """
    try:
        values = parse(read_text(path))
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing: run from the project's folder") from None
    except PipelineError as error:
        raise ParamsError(f"{path}: {error}") from None
    for old, new in RENAMED.items():
        if isinstance(values, dict) and old in values:
            raise ParamsError(f"{path}: {old}: this section is called {new} now: rename it")
    return params_of(values, str(path))


def params_of(values: Any, where: str) -> Params:
    """The values of a params.yaml, checked.

    Raises:
        ParamsError: some are wrong; every mistake is listed with `where`, its key and the value.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise ParamsError(*(f"{where}: {line}" for line in mistakes(error))) from None


def mistakes(error: ValidationError) -> list[str]:
    """A line for each of the first mistakes: what is wrong at which key, and the value got."""
    found = error.errors()
    lines = [_mistake(mistake) for mistake in found[:MOST_MISTAKES]]
    more = len(found) - len(lines)
    return [*lines, f"and {more:,} more mistakes"] if more else lines


def _mistake(mistake: ErrorDetails) -> str:
    key = "".join(f"{part!s:.80}." for part in mistake["loc"])[:-1]
    message = mistake["msg"].removeprefix("Value error, ")
    got = mistake["input"]
    if mistake["type"] == "string_type" and isinstance(got, int | float):
        return f"{key}: {message} (got {SHORT.repr(got)}: write it in quotes)"
    key = f"{key}: " if key else ""
    # A check across keys names their values itself; its input is the whole section.
    return f"{key}{message}" + ("" if isinstance(got, dict) else f" (got {SHORT.repr(got):.200})")
