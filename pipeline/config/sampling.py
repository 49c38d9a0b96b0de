"""The sections sample, score and evaluate: what a trained model is asked for."""

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.config.sections import Count, Positive, Precision, Real, Section, Seed, Text
from pipeline.methods.samplers import (
    Conditioning,
    Corrector,
    Grid,
    Order,
    PredictorName,
    Stepping,
    values_of,
)


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


class Evaluate(Section):
    """The Monte Carlo bound."""

    num_texts: Count | None
    num_replicates: Annotated[int, Field(ge=16, lt=2**31)]
    # Draws come in antithetic pairs.
    num_draws: Annotated[int, Field(ge=2, lt=2**31, multiple_of=2)]
    batch_size: Count
    precision: Precision
    seed: Seed
