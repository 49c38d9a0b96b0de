"""The section `publish`: where an experiment's samples and model go."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from pipeline.config.sections import Place, Section, kept
from pipeline.hub import HUB_ID

NAME = re.compile(r"\w[\w.-]{0,95}")
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
LICENSES = (
    "must be a licence as the hub spells it, such as mit, apache-2.0 or cc-by-4.0: "
    "https://huggingface.co/docs/hub/repositories-licenses"
)


def _folder_or_hub_id(where: str) -> str:
    if where.startswith((".", "/", "~")):
        return kept(where)
    if not HUB_ID.fullmatch(where):
        raise ValueError("must be null, a folder (./NAME or /PATH) or a hub id (ORG/NAME)")
    return where


def _license(name: str) -> str:
    if not LICENSE.fullmatch(name):
        raise ValueError(LICENSES)
    return name


class Publish(Section):
    """The Oxen repository that samples go to, and where the model goes for transformers."""

    repo: Place
    checkpoint: bool
    during_training: bool
    strict: bool
    huggingface: Annotated[str, AfterValidator(_folder_or_hub_id)] | None
    license: Annotated[str, AfterValidator(_license)] | None

    @model_validator(mode="after")
    def _is_licensed(self) -> Self:
        if self.huggingface is not None and self.license is None:
            raise ValueError("license must be given with huggingface: it is never guessed")
        return self
