"""What every section of params.yaml is, and the kinds of values in them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, lt=2**31)]
Steps = Annotated[int, Field(ge=1, le=10**6)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
# YAML reads .5e3 as text; a number was meant.
Real = Annotated[float, Field(strict=False, allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A section of params.yaml: every key must be there, and no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
