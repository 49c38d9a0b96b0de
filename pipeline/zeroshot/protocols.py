"""What a zero-shot figure counts: a protocol has the name of the table that it stands beside."""

from dataclasses import dataclass
from typing import Literal

LENGTH = 1024
"""Tokens a block in every published table."""
Terms = Literal["all", "without_reconstruction", "integral"]


@dataclass(frozen=True)
class Protocol:
    """How rows become blocks, and what of a block is counted.

    Attributes:
        eos_after_rows: whether each row is closed by eos; else neighbours are glued together.
        framed: whether a block is eos, length - 2 tokens of the stream, eos.
        num_known: first positions of a block that are shown and not scored.
        keeps_all: one stream with its tail; else the rest of every 1,000 rows is dropped.
        terms: of the bound of a raw score, whose integral ends at t_min; others count all.
            Published integrals are drawn over (t_min, 1] and not scaled by that range's length.
        needs_gpt2: whether the figure is of GPT-2's tokens, and of no others.
        table: what it stands beside.
    """

    eos_after_rows: bool
    framed: bool
    num_known: int
    keeps_all: bool
    terms: Terms
    needs_gpt2: bool
    table: str | None

    def check_length(self, length: int) -> None:
        """ValueError unless a block of so many tokens has one of a text to score."""
        least = 1 + 2 * self.framed
        if length < least:
            raise ValueError(f"a block must have at least {least} tokens (got {length})")


def _published(table: str, *, eos: bool, framed: bool, known: int, terms: Terms) -> Protocol:
    return Protocol(eos, framed, known, False, terms, True, table)


PROTOCOLS: dict[str, Protocol] = {
    "exact": Protocol(True, False, 0, True, "all", False, None),
    "sedd": _published(
        "SEDD's, RADD's and MD4's zero-shot tables",
        eos=True,
        framed=False,
        known=0,
        terms="without_reconstruction",
    ),
    # As its code has it: by its paper no eos follows a row.
    "mdlm": _published("MDLM's table 3", eos=True, framed=True, known=0, terms="integral"),
    "duo": _published("Duo's own row", eos=False, framed=True, known=0, terms="integral"),
    "bd3lm": _published("BD3-LM's table 5", eos=False, framed=True, known=1, terms="integral"),
}
