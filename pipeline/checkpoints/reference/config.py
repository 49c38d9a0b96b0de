"""What a config of the reference implementation says of its model, as a SEDDConfig."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.config import methods
from pipeline.config.params import mistakes
from pipeline.config.sections import Fraction, Section
from pipeline.config.strict_yaml import parse, read_text
from pipeline.errors import CheckpointError, PipelineError
from pipeline.methods.sedd.model import LARGEST, SEDDConfig

# Both are fixed in the reference's code; from T_MIN on its training draws t.
EPS = 1e-3
T_MIN = 1e-3
Size = Annotated[int, Field(ge=1, le=LARGEST)]


class Graph(Section):
    """The forward process. The other two keys are of code that was not released."""

    type: Literal["absorb", "uniform"]
    file: Any = None
    report_all: Any = None


class Loglinear(Section):
    """The loglinear schedule; the sigmas beside it are of the other one."""

    type: Literal["loglinear"]
    sigma_min: Any = None
    sigma_max: Any = None


class Geometric(methods.Geometric):
    """The geometric schedule."""

    type: Literal["geometric"]


class Network(Section):
    """Sizes of the transformer."""

    name: Any = None
    type: Literal["ddit"] = "ddit"
    hidden_size: Size
    cond_dim: Size
    length: Size
    n_blocks: Size
    n_heads: Size
    scale_by_sigma: bool
    dropout: Fraction


class Config(BaseModel):
    """The keys that define the model; those of training, data and evaluation are not looked at.

    In a section a key that is not known here may change the model, and is refused.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    tokens: Size
    graph: Graph
    noise: Annotated[Loglinear | Geometric, Field(discriminator="type")]
    model: Network

    @model_validator(mode="after")
    def _scale_needs_mask(self) -> Self:
        if self.graph.type == "uniform" and self.model.scale_by_sigma:
            raise ValueError("model.scale_by_sigma must be false with graph.type uniform")
        return self


def read_config(path: Path) -> SEDDConfig:
    """The model that config.json or config.yaml describes.

    Raises:
        CheckpointError: the file is damaged, of another format, or has values or keys that this
            project does not know; every mistake is named.
    """
    values = _parse(path)
    missing = [key for key in Config.model_fields if key not in values]
    if missing:
        raise CheckpointError(
            f"{path} is no config of the reference implementation: {', '.join(missing)} missing"
        )
    try:
        return _sedd_config(Config.model_validate(values))
    except ValidationError as error:
        raise CheckpointError(f"{path}: {'; '.join(mistakes(error))}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _sedd_config(config: Config) -> SEDDConfig:
    noise, sizes = config.noise, config.model
    geometric = isinstance(noise, Geometric)
    return SEDDConfig(
        graph=config.graph.type,
        noise=noise.type,
        parameterization="raw",
        vocab_size=config.tokens,
        length=sizes.length,
        width=sizes.hidden_size,
        num_blocks=sizes.n_blocks,
        num_heads=sizes.n_heads,
        cond_dim=sizes.cond_dim,
        dropout=sizes.dropout,
        eps=None if geometric else EPS,
        sigma_min=noise.sigma_min if geometric else None,
        sigma_max=noise.sigma_max if geometric else None,
        t_min=T_MIN,
        scale_by_sigma=sizes.scale_by_sigma,
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
        values = json.loads(text) if path.suffix == ".json" else parse(text)
    except (OSError, ValueError, RecursionError, PipelineError) as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is no config: it holds no keys")
    return values
