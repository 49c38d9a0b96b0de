"""Text for the terminal: of others, and in tables."""

from collections.abc import Sequence
from unicodedata import category

LONGEST = 1000
"""Characters of others that are shown at once."""


def shown(text: str, longest: int = LONGEST) -> str:
    r"""One line that a terminal only shows: \n, \x1b, \u202e; of a long one not its middle."""
    escaped = "".join(
        character.encode("unicode_escape").decode()
        if category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character
        for character in _cut(text, longest)
    )
    return _cut(escaped, longest)


def _cut(text: str, longest: int) -> str:
    half = longest // 2 - 2
    return text if len(text) <= longest else f"{text[:half]} … {text[-half:]}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of as many cells each, their columns aligned to the left; cells may be of others."""
    lines = [[shown(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
