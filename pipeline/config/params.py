"""params.yaml as frozen models: it checks values and never computes or supplies one.

Sections stand beside this file, by what they configure; checks that tie several together are here.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from pipeline.config.data import Data, Pack, Patience, Tokenizer
from pipeline.config.methods import SECTIONS, Diffusion, Embedding
from pipeline.config.mistakes import SHORT, mistakes
from pipeline.config.publish import Publish
from pipeline.config.sampling import Evaluate, Sample, Score
from pipeline.config.sections import Count, Place, Section, Steps, Text
from pipeline.config.strict_yaml import parse, read_text
from pipeline.config.training import Baseline, Model, Train
from pipeline.config.zero_shot import ZeroShot
from pipeline.errors import ParamsError, PipelineError
from pipeline.methods.samplers import ABILITIES, Conditioning, label_misuses, misuses

# As written: 1 and 1.0 are files of two names.
Temperature = Annotated[int | float, Field(gt=0, allow_inf_nan=False)]
RENAMED = {"network": "oxen"}
"""Keys of params.yaml that were called otherwise."""


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return name


def _address(text: str) -> str:
    if not re.fullmatch(r"auto|[^\s:/]+:[0-9]{1,5}", text):
        raise ValueError("must be auto or HOST:PORT")
    return text


def _folder(place: str) -> str:
    if "://" in place:
        raise ValueError(f"must be a folder, as a bucket knows no locks (got {place})")
    return place


class Resources(Section):
    """Who runs the networks, and who packs; what comes out is the same."""

    processes: Count
    nodes: Count
    launcher: Literal["local", "env", "slurm"]
    strategy: Literal["ddp", "fsdp"]
    timeout_seconds: Count
    store: Annotated[Place, AfterValidator(_folder)] | None
    pack: Literal["local", "ray"]
    ray_address: Annotated[str, AfterValidator(_address)]

    @property
    def num_ranks(self) -> int:
        """Processes of all nodes together."""
        return self.processes * self.nodes

    @property
    def of_ranks(self) -> dict[str, Any]:
        """What starting them takes."""
        return self.model_dump(include={"processes", "nodes", "launcher", "timeout_seconds"})

    @model_validator(mode="after")
    def _are_started(self) -> Self:
        if self.num_ranks & (self.num_ranks - 1):
            raise ValueError(
                f"processes * nodes must be a power of two (got {self.processes} * {self.nodes})"
            )
        if self.nodes > 1 and self.launcher == "local":
            raise ValueError(
                f"nodes must be 1 with launcher local (got {self.nodes}); use env or slurm"
            )
        return self


class Report(Section):
    """The page."""

    num_samples: Count


class Tracking(Section):
    """MLflow."""

    uri: Text
    experiment: Text
    log_model: Literal["auto", "always", "never"]


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
    resources: Resources
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
    def _ranks_have_pieces(self) -> Self:
        resources, num = self.resources, self.resources.num_ranks
        found = [
            f"resources.processes ({resources.processes}) * resources.nodes ({resources.nodes}) "
            f"must divide {name}.accumulate ({section.accumulate}): each has as many pieces"
            for name, section in (("train", self.train), ("baseline", self.baseline))
            if section.accumulate % num
        ]
        if resources.processes > 1 and self.device.startswith("cuda:"):
            found.append(
                f"device must be auto, cpu or cuda with resources.processes "
                f"{resources.processes}: each has a GPU of its own (got {self.device})"
            )
        if num > 1 and resources.strategy == "fsdp":
            found += self._cannot_be_divided()
        if found:
            raise ValueError("; ".join(found))
        return self

    def _cannot_be_divided(self) -> Iterator[str]:
        for name, section in (("train", self.train), ("baseline", self.baseline)):
            if section.reduction == "fixed" and section.accumulate & (section.accumulate - 1):
                yield (
                    f"{name}.accumulate must be a power of two with resources.strategy fsdp and "
                    f"{name}.reduction fixed (got {section.accumulate})"
                )
        if self.train.compile:
            yield (
                "train.compile must be false with resources.strategy fsdp (got "
                f"{json.dumps(self.train.compile)})"
            )

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
    def _packs_parts(self) -> Self:
        if self.resources.pack == "ray" and self.pack.mode == "stream":
            raise ValueError(
                "resources.pack must be local with pack.mode stream, which is one text"
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
