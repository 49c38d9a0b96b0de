"""The sections data, tokenizer, pack and oxen: documents, and how they become blocks."""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.config.sections import Place, Positive, Real, RepositoryPath, Section, Text

Id = Annotated[int, Field(ge=0, lt=2**31)]
Edge = Annotated[int | float, Field(allow_inf_nan=False)]
ModelType = Literal["bpe", "unigram"]


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

    repo: Place
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
    source: Place
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
