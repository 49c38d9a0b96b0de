"""Templates of an infill: `A[3]n[?]` is A, a gap of three tokens, n, and a gap of any length."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.errors import DataError
from pipeline.methods.draws import FREE


@dataclass(frozen=True)
class Gap:
    """A hole of `size` tokens, of any length if None."""

    size: int | None


@dataclass(frozen=True)
class Layout:
    """What one sample is given.

    Attributes:
        fixed: L ids, FREE where the model decides.
        end: how many of them the template takes; what follows is its end, or left open.
    """

    fixed: tuple[int, ...]
    end: int

    def text_of(self, ids: list[int], eos_id: int | None) -> list[int]:
        """All of the template, whatever the model put into its gaps, then the rest up to eos."""
        rest = ids[self.end :]
        return ids[: self.end + (rest.index(eos_id) if eos_id in rest else len(rest))]


def parse_template(template: str) -> list[str | Gap]:
    """Split at the gaps; `[[` is a bracket of the text.

    Raises:
        DataError: a bracket opens no gap.
    """
    parts: list[str | Gap] = []
    text = ""
    for bracket, size, character in re.findall(r"(\[\[)|\[([0-9]{1,9}|\?)\]|([\s\S])", template):
        if size:
            parts += [text, Gap(None if size == "?" else int(size))]
            text = ""
        elif character == "[":
            raise DataError(
                f"--template {template!r}: a gap is [3] for three tokens or [?] for any number; "
                "a bracket of the text is [["
            )
        else:
            text += "[" if bracket else character
    return [part for part in [*parts, text] if part != ""]


class Template:
    """Pieces of text with gaps between them, for blocks of `length` tokens.

    It is closed by eos, unless its last part is a gap of any length: then the model ends the text.
    After the eos comes pad, in a window of running text whatever the model makes of it; where texts
    have no eos, that comes at once.
    """

    def __init__(
        self, parts: Sequence[str | Gap], tokenizer: TextTokenizer, length: int, mode: Mode = "pad"
    ) -> None:
        """Encode the pieces.

        Raises:
            DataError: the tokenizer does not know a character, or the parts fill more than a block.
        """
        self.length = length
        end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        after = FREE if tokenizer.pad_id is None or mode != "pad" else tokenizer.pad_id
        self._close = end + [after] * length
        self.most = length - len(end)
        self._parts: list[list[int] | Gap] = [
            part if isinstance(part, Gap) else tokenizer.encode_known(part) for part in parts
        ]
        self._open = self._parts[-1:] == [Gap(None)]
        if self._open:
            self._parts.pop()
        self.num_tokens = sum(
            (part.size or 0) if isinstance(part, Gap) else len(part) for part in self._parts
        )
        if self.num_tokens > self.most:
            raise DataError(
                f"the template takes at least {self.num_tokens} tokens; a block of this model "
                f"holds at most {self.most}" + " and their eos" * len(end)
            )

    @property
    def num_unknown(self) -> int:
        """Gaps whose length has to be chosen."""
        return self._parts.count(Gap(None))

    def layout(self, total: int, source: random.Random) -> Layout:
        """Choose the unknown gaps so that the text before an open end has `total` tokens.

        All ways to divide the tokens between these gaps are equally likely.
        """
        sizes = iter(_divide(total - self.num_tokens, self.num_unknown, source))
        ids: list[int] = []
        for part in self._parts:
            if isinstance(part, Gap):
                ids += [FREE] * (next(sizes) if part.size is None else part.size)
            else:
                ids += part
        rest = [FREE] * self.length if self._open else self._close
        return Layout(tuple([*ids, *rest][: self.length]), len(ids))


def _divide(total: int, num_parts: int, source: random.Random) -> list[int]:
    """`total` as a sum of `num_parts` numbers from 0 on, uniformly over all such sums."""
    if not num_parts:
        return []
    bars = sorted(source.sample(range(total + num_parts - 1), num_parts - 1))
    edges = [-1, *bars, total + num_parts - 1]
    return [right - left - 1 for left, right in pairwise(edges)]
