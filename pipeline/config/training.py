"""The sections model, train and baseline: networks, and how they are trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.sections import (
    Count,
    Fraction,
    Place,
    Positive,
    Precision,
    Real,
    Section,
    Seed,
    Steps,
    Text,
)


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
    reduction: Literal["fixed", "fast"]
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

    init: Place | None
    init_revision: Text | None
    num_steps: Annotated[int, Field(ge=0, lt=2**31)]
    label_dropout: Fraction
    compile: Literal[False, True, "graphs"]
    activation_checkpointing: bool
    sample_every: Count
    sample_num: Count
    sample_steps: Steps

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
