"""The section of params.yaml that declares zero-shot sets, and how they are scored."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.sections import Count, Place, Precision, RepositoryPath, Section, Seed, Text

Name = Annotated[str, Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_]*\z")]
"""Of a set: part of a stage's name, and of a path."""
Protocol = Literal["exact", "sedd", "mdlm", "duo", "bd3lm"]
Detokenizer = Literal["none", "wikitext", "ptb", "lm1b", "lambada", "scientific_papers"]
Of = Literal["lambada", "wikitext2", "wikitext103", "ptb", "lm1b", "ag_news", "pubmed", "arxiv"]


class ZeroShotSet(Section):
    """A file of an Oxen repository, what it is, and how it is scored."""

    repo: Place
    revision: Text
    file: RepositoryPath
    column: Text
    of: Of | None
    split: Literal["train", "validation", "test"] | None
    detokenizer: Detokenizer
    protocols: Annotated[list[Protocol], Field(min_length=1)]


class ZeroShot(Section):
    """Which sets are scored, and the bound's draws."""

    names: list[Name]
    max_blocks: Count | None
    workers: Count
    against: Text | None
    against_revision: Text | None
    num_replicates: Annotated[int, Field(ge=16, lt=2**31)]
    num_draws: Annotated[int, Field(ge=2, lt=2**31, multiple_of=2)]
    batch_size: Count
    precision: Precision
    seed: Seed
    sets: dict[Name, ZeroShotSet]

    @model_validator(mode="after")
    def _are_declared(self) -> Self:
        unknown = [name for name in self.names if name not in self.sets]
        if unknown:
            declared = ", ".join(self.sets) or "none"
            raise ValueError(
                f"names must be of sets declared below, which are: {declared} "
                f"(got {', '.join(unknown)})"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names must differ (got {', '.join(self.names)})")
        return self
