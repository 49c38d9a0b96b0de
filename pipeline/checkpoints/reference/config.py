"""What a config of the reference implementation, or of RADD's, says of its model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.config import methods
from pipeline.config.params import mistakes
from pipeline.config.sections import Fraction, Section
from pipeline.config.strict_yaml import parse, read_text
from pipeline.errors import CheckpointError, PipelineError
from pipeline.methods.sedd.model import LARGEST, SEDDConfig

# Both are fixed in the code of either; from T_MIN on its training draws t.
EPS = 1e-3
T_MIN = 1e-3
BY_X0: dict[str, Any] = {"graph": "absorb", "parameterization": "conditional", "norm_bias": True}
Size = Annotated[int, Field(ge=1, le=LARGEST)]


class Graph(Section):
    """The forward process. The other two keys are of code that was not released."""

    type: Literal["absorb", "uniform"]
    file: Any = None
    report_all: Any = None


class Masks(Graph):
    """The forward process to masks."""

    type: Literal["absorb"]


class Loglinear(Section):
    """The loglinear schedule; the sigmas beside it are of the other one."""

    type: Literal["loglinear"]
    sigma_min: Any = None
    sigma_max: Any = None


class Geometric(methods.Geometric):
    """The geometric schedule."""

    type: Literal["geometric"]


class Sizes(Section):
    """Sizes of the transformer."""

    name: Any = None
    hidden_size: Size
    cond_dim: Size
    length: Size
    n_blocks: Size
    n_heads: Size
    dropout: Fraction


class Network(Sizes):
    """That of SEDD."""

    type: Literal["ddit"] = "ddit"
    scale_by_sigma: bool


class TimeFree(Sizes):
    """That of RADD, which has neither time nor cond_dim; the other keys say how it is run."""

    type: Literal["ddit_wot"]
    use_checkpoint: Any = None
    dtype: Any = None
    scale_by_sigma: Any = None


class Config(BaseModel):
    """The keys that define the model; those of training, data and evaluation are not looked at.

    In a section a key that is not known here may change the model, and is refused.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    tokens: Size
    noise: Annotated[Loglinear | Geometric, Field(discriminator="type")]


class RADD(Config):
    """Of RADD, which knows no graph but this one."""

    model: TimeFree
    graph: Masks | None = None


class Reference(Config):
    """Of the reference implementation."""

    graph: Graph
    model: Network

    @model_validator(mode="after")
    def _scale_needs_mask(self) -> Self:
        if self.graph.type == "uniform" and self.model.scale_by_sigma:
            raise ValueError("model.scale_by_sigma must be false with graph.type uniform")
        return self


@dataclass(frozen=True)
class Described:
    """What a config says of a model.

    Attributes:
        config: of the model as it is here.
        takes_sigma: whether the network takes noise whose weights are stored.
    """

    config: SEDDConfig
    takes_sigma: bool


def read_config(path: Path) -> Described:
    """The model that config.json or config.yaml describes.

    Raises:
        CheckpointError: the file is damaged, of another format, or has values or keys that this
            project does not know; every mistake is named.
    """
    values = _parse(path)
    model = values.get("model")
    is_radd = isinstance(model, dict) and model.get("type") == "ddit_wot"
    known = RADD if is_radd else Reference
    required = [key for key, field in known.model_fields.items() if field.is_required()]
    missing = [key for key in required if key not in values]
    if missing:
        raise CheckpointError(
            f"{path} is no config of the reference implementation: {', '.join(missing)} missing"
        )
    try:
        found = known.model_validate(values)
        return Described(_sedd_config(found), takes_sigma=not is_radd)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {'; '.join(mistakes(error))}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _sedd_config(found: RADD | Reference) -> SEDDConfig:
    if isinstance(found, RADD):
        return SEDDConfig(vocab_size=found.tokens, **BY_X0, **shared(found.model, found.noise))
    return SEDDConfig(
        graph=found.graph.type,
        parameterization="raw",
        vocab_size=found.tokens,
        scale_by_sigma=found.model.scale_by_sigma,
        **shared(found.model, found.noise),
    )


def shared(sizes: Sizes, noise: Loglinear | Geometric) -> dict[str, Any]:
    """Fields of SEDDConfig that are about sizes and noise."""
    geometric = isinstance(noise, Geometric)
    return {
        "noise": noise.type,
        "length": sizes.length,
        "width": sizes.hidden_size,
        "num_blocks": sizes.n_blocks,
        "num_heads": sizes.n_heads,
        "cond_dim": sizes.cond_dim,
        "dropout": sizes.dropout,
        "eps": None if geometric else EPS,
        "sigma_min": noise.sigma_min if geometric else None,
        "sigma_max": noise.sigma_max if geometric else None,
        "t_min": T_MIN,
    }


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
        values = json.loads(text) if path.suffix == ".json" else parse(text)
    except (OSError, ValueError, RecursionError, PipelineError) as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is no config: it holds no keys")
    return values
