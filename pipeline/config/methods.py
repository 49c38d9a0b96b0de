"""The sections of params.yaml that belong to one method, each with every variant of it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.sections import Count, Positive, Real, Section

SECTIONS = {"sedd": "diffusion", "embedding": "embedding"}
"""Method -> its section. A section of a variant there is in use if some key's value is its name."""
LABELS = {"sedd": "SEDD", "embedding": "Embedding diffusion"}
"""What a person calls a method."""
Share = Annotated[Real, Field(ge=0, le=1)]
Level = Annotated[Real, Field(ge=-40, le=40)]


class Variant(Section):
    """A graph."""

    parameterization: Literal["conditional", "raw"]


class Loglinear(Section):
    """Loglinear noise."""

    eps: Annotated[Real, Field(gt=0, lt=1)]


class Geometric(Section):
    """Geometric noise."""

    sigma_min: Positive
    # Past 80 its exponential leaves float32.
    sigma_max: Annotated[Real, Field(gt=0, le=80)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min must be less than sigma_max ({self.sigma_max:g})")
        return self


class Diffusion(Section):
    """The forward process, with the section of every variant."""

    graph: Literal["absorb", "uniform"]
    noise: Literal["loglinear", "geometric"]
    t_min: Annotated[Real, Field(gt=0, lt=1)]
    absorb: Variant
    uniform: Variant
    loglinear: Loglinear
    geometric: Geometric

    @property
    def sampled(self) -> tuple[str, str]:
        """The kind of model that is sampled, of `ABILITIES`, and where it was chosen."""
        score = getattr(self, self.graph).parameterization
        return f"{self.graph} {score}", f"diffusion.{self.graph}.parameterization {score}"


class Recipe(Section):
    """One way of embedding diffusion."""

    dim: Count
    norm: Literal["l2", "layernorm"]
    input: Literal["evidence", "vector"]
    loss: Literal["likelihood", "cross_entropy", "half", "mse_cross_entropy"]
    clock: Literal["nats", "decoding", "cosine"]
    g_min: Level
    g_max: Level
    self_condition: Share
    known: Share

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.g_min >= self.g_max:
            raise ValueError(f"g_min must be less than g_max ({self.g_max:g})")
        if self.norm == "layernorm" and self.dim < 2:
            raise ValueError(f"dim must be at least 2 with norm layernorm (got {self.dim})")
        return self


class Embedding(Section):
    """Gaussian noise on token vectors, with the section of every recipe."""

    recipe: Literal["bound", "simple"]
    bound: Recipe
    simple: Recipe

    @property
    def chosen(self) -> Recipe:
        """The recipe in use."""
        recipe: Recipe = getattr(self, self.recipe)
        return recipe

    @property
    def sampled(self) -> tuple[str, str]:
        """The kind of model that is sampled, of `ABILITIES`, and where it was chosen."""
        return "embedding", "method embedding"
