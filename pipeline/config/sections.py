"""What every section of params.yaml is, and the kinds of values in them."""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.errors import PipelineError
from pipeline.files import from_root

OUTPUTS = "artifacts"
"""Where stages write, in dvc.yaml: DVC removes what is there before it runs them."""


def _plain(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or parts.as_posix() != path:
        raise ValueError("must be a path inside the repository, without . or .. or //")
    return path


def kept(place: str) -> str:
    """`place`, a folder or something elsewhere, unless DVC would remove it."""
    try:
        is_output = "://" not in place and from_root(place).is_relative_to(from_root(OUTPUTS))
    except PipelineError as error:
        raise ValueError(str(error)) from None
    if is_output:
        raise ValueError(f"must be outside {OUTPUTS}, which DVC empties: copy it elsewhere")
    return place


Count = Annotated[int, Field(ge=1, lt=2**31)]
Steps = Annotated[int, Field(ge=1, le=10**6)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
# YAML reads .5e3 as text; a number was meant.
Real = Annotated[float, Field(strict=False, allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Place = Annotated[Text, AfterValidator(kept)]
RepositoryPath = Annotated[Text, AfterValidator(_plain)]
Precision = Literal["auto", "float32", "tf32", "bfloat16"]


class Section(BaseModel):
    """A section of params.yaml: every key must be there, and no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
