"""What a config of the reference implementation, of RADD's or of MDLM's, says of its model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.config import methods
from pipeline.config.mistakes import mistakes
from pipeline.config.sections import Fraction, Section
from pipeline.config.strict_yaml import parse, read_text
from pipeline.errors import CheckpointError, PipelineError
from pipeline.methods.protocol import LARGEST
from pipeline.methods.sedd.model import SEDDConfig

# Both are fixed in the code of each; from T_MIN on its training draws t.
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


class MDLM(Sizes):
    """Of MDLM as transformers has it; keys that every model has there are not looked at.

    With time_conditioning it would be a score by x0 that takes time, of which masks have none here.
    """

    model_config = ConfigDict(extra="ignore")

    model_type: Literal["mdlm"]
    vocab_size: Annotated[int, Field(ge=2, le=LARGEST)]
    hidden_size: Size = Field(alias="hidden_dim")
    length: Size = Field(alias="model_length")
    time_conditioning: Literal[False]


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
    known = _kind_of(values)
    if known is not MDLM:
        required = [key for key, field in known.model_fields.items() if field.is_required()]
        _refuse_missing(path, [key for key in required if key not in values], values)
    try:
        return Described(_sedd_config(known.model_validate(values)), known is not RADD)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {'; '.join(mistakes(error))}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _kind_of(values: dict[str, Any]) -> type[RADD | MDLM | Reference]:
    model = values.get("model")
    if isinstance(model, dict) and model.get("type") == "ddit_wot":
        return RADD
    return MDLM if values.get("model_type") == "mdlm" else Reference


def _refuse_missing(path: Path, missing: list[str], values: dict[str, Any]) -> None:
    if not missing:
        return
    kind = values.get("model_type")
    other = "" if kind is None else f", and model_type must be 'mdlm' (got {kind!r})"
    raise CheckpointError(
        f"{path} is no config of the reference implementation: {', '.join(missing)} missing{other}"
    )


def _sedd_config(found: RADD | MDLM | Reference) -> SEDDConfig:
    if isinstance(found, MDLM):
        noise = Loglinear(type="loglinear")
        return SEDDConfig(vocab_size=found.vocab_size - 1, **BY_X0, **shared(found, noise))
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
