"""Known recipes as values of params.yaml, each with its source: what `sedd preset` writes."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.config.edits import Value, edited
from pipeline.config.identity import leaves
from pipeline.config.params import Params, params_of
from pipeline.config.sections import Count, Section, Text
from pipeline.config.strict_yaml import parse, read_text
from pipeline.errors import ParamsError, PipelineError

PRESETS = Path(__file__).with_name("presets.yaml")
OWN = ("data.repo", "data.revision")
"""Keys that a recipe sets only if it says so itself: where a data set lies."""


class Preset(Section):
    """A recipe.

    Attributes:
        about: what is trained on what.
        source: which paper, table or file of code has which values.
        vocab_size: tokens that its tokenizer has, of characters those of its text.
        like: the recipe whose values hold where this one has none; None where it has all.
        values: those of this one, as in params.yaml.
    """

    about: Text
    source: Text
    vocab_size: Count
    like: Text | None
    values: dict[str, Any]


@cache
def presets() -> dict[str, Preset]:
    """The recipes that ship, by name."""
    return TypeAdapter(dict[str, Preset]).validate_python(parse(read_text(PRESETS)))


def preset(name: str) -> Preset:
    """The recipe of that name.

    Raises:
        PipelineError: there is none.
    """
    if name not in presets():
        raise PipelineError(f"preset {name}: there is none; there are {', '.join(presets())}")
    return presets()[name]


def values_of(name: str) -> dict[str, Value]:
    """What a recipe sets, by dotted key: as many keys for each recipe, but for `OWN`.

    Raises:
        PipelineError: there is no such recipe.
    """
    found = preset(name)
    own = dict(leaves(found.values))
    if found.like is None:
        return own
    return {key: value for key, value in values_of(found.like).items() if key not in OWN} | own


def changes(text: str, name: str) -> dict[str, Value]:
    """The values of a recipe that the params.yaml `text` has otherwise, by dotted key.

    Raises:
        PipelineError: there is no such recipe, or `text` is not of this project.
    """
    before = dict(leaves(parse(text)))
    wanted = values_of(name)
    if missing := [key for key in wanted if key not in before]:
        raise PipelineError(f"{', '.join(missing)}: not there, and its value cannot be replaced")
    # By repr: 1 equals true and 1.0.
    return {key: value for key, value in wanted.items() if repr(value) != repr(before[key])}


def applied(text: str, changed: Mapping[str, Value], where: str) -> Params:
    """What a params.yaml holds once its values are `changed`.

    Raises:
        ParamsError: they do not go with others that it has, or cannot stand there; named with
            `where`.
    """
    try:
        after = edited(text, changed)
    except PipelineError as error:
        raise ParamsError(f"{where}: {error}") from None
    return params_of(parse(after), where)
