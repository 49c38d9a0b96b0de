"""What pydantic finds wrong with values that a person wrote, as lines for that person."""

from reprlib import Repr

from pydantic import ValidationError
from pydantic_core import ErrorDetails

SHORT = Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 80
SHORT.maxlevel = 3


def mistakes(error: ValidationError) -> list[str]:
    """A line for each mistake: what is wrong at which key, and the value got."""
    return [_mistake(mistake) for mistake in error.errors()]


def _mistake(mistake: ErrorDetails) -> str:
    key = "".join(f"{part!s:.80}." for part in mistake["loc"])[:-1]
    message = mistake["msg"].removeprefix("Value error, ")
    got = mistake["input"]
    if mistake["type"] == "string_type" and isinstance(got, int | float):
        return f"{key}: {message} (got {SHORT.repr(got)}: write it in quotes)"
    key = f"{key}: " if key else ""
    # A check across keys names their values itself; its input is the whole section.
    return f"{key}{message}" + ("" if isinstance(got, dict) else f" (got {SHORT.repr(got):.200})")
