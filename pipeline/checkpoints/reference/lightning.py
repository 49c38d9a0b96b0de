"""Lightning checkpoints of the code of MDLM, BD3-LM and Duo: what the configuration inside says."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from pipeline.checkpoints.reference.config import (
    BY_X0,
    T_MIN,
    Described,
    Geometric,
    Loglinear,
    Sizes,
    shared,
)
from pipeline.checkpoints.reference.unpickling import Kept
from pipeline.config.mistakes import mistakes
from pipeline.config.sections import Fraction, Section
from pipeline.errors import CheckpointError
from pipeline.methods.sedd.model import SEDDConfig

Share = Annotated[Fraction, Field(gt=0)]
WHERE = "hyper_parameters.config"
EMBEDDING = "vocab_embed.embedding"


class Network(Sizes):
    """Sizes of the transformer; what the other keys say is the same for every model that is read.

    SEDD's score is scaled by sigma in this code, whatever scale_by_sigma says.
    """

    type: Literal["ddit"] = "ddit"
    causal_attention: Literal[False] = False
    scale_by_sigma: Any = None
    tie_word_embeddings: Any = None
    adaln: Any = None
    attn_backend: Any = None


class DuoLoglinear(Section):
    """The loglinear schedule as Duo spells it."""

    type: Literal["log-linear"]
    eps: Share


class Known(BaseModel):
    """What is not looked at is of training, data or evaluation."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Training(Known):
    """Where its draws of t begin."""

    sampling_eps: Share = T_MIN


def _gpt2(name: str) -> str:
    if not re.fullmatch(r"(openai-community/)?gpt2(-medium|-large|-xl)?", name):
        raise ValueError("must be GPT-2's, of which the mask is known to be the last state")
    return name


class Data(Known):
    """What is known of the tokenizer; the object beside the configuration is not looked at."""

    tokenizer_name_or_path: Annotated[str, AfterValidator(_gpt2)]


class Denoiser(Known):
    """What the network's output means, and whether it takes time."""

    name: Literal["mdlm", "sedd"] | None = None
    backbone: Literal["dit"]
    diffusion: Literal["absorbing_state"] = "absorbing_state"
    parameterization: Literal["subs", "sedd", "score"]
    time_conditioning: bool
    causal_attention: Literal[False] = False
    cross_attn: Literal[False] = False

    @model_validator(mode="after")
    def _time_where_it_belongs(self) -> Self:
        takes_time = self.parameterization != "subs"
        if self.time_conditioning is not takes_time:
            raise ValueError(
                f"time_conditioning must be {takes_time} with parameterization "
                f"{self.parameterization} (got {self.time_conditioning})"
            )
        return self


class Common(Known):
    """Of all three."""

    model: Network
    noise: Annotated[Loglinear | DuoLoglinear | Geometric, Field(discriminator="type")]
    training: Training
    data: Data


class Flat(Common, Denoiser):
    """Of MDLM."""


class Nested(Common):
    """Of BD3-LM and Duo."""

    algo: Denoiser


def describe(path: Path, stored: dict[Any, Any], weights: dict[str, Tensor]) -> Described:
    """The model that is stored in a Lightning checkpoint.

    Args:
        path: of the file, for messages.
        stored: all of it.
        weights: by name; how many states there are is said by the embedding alone.
    Raises:
        CheckpointError: there is no configuration or no embedding, or values or keys that this
            project does not know; every mistake is named.
    """
    if EMBEDDING not in weights:
        raise CheckpointError(f"{path} does not hold a transformer: {EMBEDDING} is missing")
    num_states = len(weights[EMBEDDING]) if weights[EMBEDDING].dim() else 0
    parameters = stored.get("hyper_parameters")
    values = _content(parameters.get("config")) if isinstance(parameters, dict) else None
    if values is None:
        raise CheckpointError(f"{path} has no {WHERE}, which would say what its model is")
    known = Nested if "algo" in values else Flat
    try:
        return Described(_sedd_config(known.model_validate(values), num_states), takes_sigma=True)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {WHERE}: {'; '.join(mistakes(error))}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {WHERE}: {error}") from None


def _sedd_config(found: Flat | Nested, num_states: int) -> SEDDConfig:
    denoiser = found.algo if isinstance(found, Nested) else found
    raw: dict[str, Any] = {"graph": "absorb", "parameterization": "raw"}
    kind = BY_X0 if denoiser.parameterization == "subs" else raw
    noise = found.noise
    spelled = Loglinear(type="loglinear") if isinstance(noise, DuoLoglinear) else noise
    fields = shared(found.model, spelled) | {"t_min": found.training.sampling_eps}
    if isinstance(noise, DuoLoglinear):
        fields["eps"] = noise.eps
    return SEDDConfig(vocab_size=num_states - 1, **kind, **fields)


def _content(node: Any) -> dict[str, Any] | None:
    """Keys of a configuration, whose sections are keys of their own; None where it is none."""
    sections = _keys(node)
    if sections is None:
        return None
    return {
        key: _value(value) if (inner := _keys(value)) is None else _values(inner)
        for key, value in sections.items()
    }


def _keys(node: Any) -> dict[str, Any] | None:
    """One level of a plain or an OmegaConf dictionary; None where a key is no text."""
    if isinstance(node, Kept) and isinstance(node.state, dict):
        node = node.state.get("_content")
    is_one = isinstance(node, dict) and all(isinstance(key, str) for key in node)
    return node if is_one else None


def _values(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: _value(value) for key, value in keys.items()}


def _value(node: Any) -> Any:
    """A plain value, out of what OmegaConf keeps it in; of others an object without any.

    Of a tuple that holds one twice, and so on, a few bytes would make a message without end.
    """
    if isinstance(node, Kept) and isinstance(node.state, dict):
        node = node.state.get("_val", node)
    return node if isinstance(node, str | int | float | None) else Kept()
