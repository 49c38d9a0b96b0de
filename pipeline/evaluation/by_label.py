"""How often samples look like the label that they were asked for, by counts of real texts.

The training texts that share a text's longest ending, at least LEAST of them, say what its label
is: the value that most of them have. It is sure where SURE of them have it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

LEAST, SURE = 20, 0.9
LONGEST = 16
"""Characters of an ending at most."""


class Endings:
    """Training texts by their endings, counted by the value of one label."""

    def __init__(self, texts: Iterable[tuple[str, str | None]]) -> None:
        self._counts: dict[str, Counter[str]] = {}
        for text, value in texts:
            if value is not None:
                for ending in _endings(text):
                    self._counts.setdefault(ending, Counter())[value] += 1

    def assigned(self, text: str) -> str | None:
        """The value that it is sure of; None where it is not."""
        known = (self._counts.get(ending) for ending in _endings(text))
        counts = next((each for each in known if each and each.total() >= LEAST), None)
        if counts is None:
            return None
        value, num = counts.most_common(1)[0]
        return value if num >= SURE * counts.total() else None


def _endings(text: str) -> Iterator[str]:
    """The longest first; the last is that of all texts, none."""
    return (text[start:] for start in range(max(0, len(text) - LONGEST), len(text) + 1))


def by_label(
    samples: Iterable[tuple[str, dict[str, str]]],
    real: Iterable[tuple[str, dict[str, str]]],
    training: Iterable[tuple[str, dict[str, str]]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """For each column, and each value that samples were asked for, how many look like it.

    Args:
        samples: texts, and what they were asked for by column.
        real: held-out texts, and their labels.
        training: what is counted.
    Returns:
        `num` samples asked for the value, `num_sure` that the counts are sure of, the `share` of
        these that are assigned to it, with its standard error; and the same of real texts.
    """
    samples, real, training = list(samples), list(real), list(training)
    asked = {column: None for _, labels in samples for column in labels}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column in asked:
        counts = Endings((text, labels.get(column)) for text, labels in training)
        values = sorted({labels[column] for _, labels in samples if column in labels})
        found[column] = {
            value: _looks_like(counts, samples, column, value)
            | {
                f"real_{name}": figure
                for name, figure in _looks_like(counts, real, column, value).items()
            }
            for value in values
        }
    return found


def _looks_like(
    counts: Endings, texts: Iterable[tuple[str, dict[str, str]]], column: str, value: str
) -> dict[str, Any]:
    mine = [counts.assigned(text) for text, labels in texts if labels.get(column) == value]
    sure = [each == value for each in mine if each is not None]
    share = sum(sure) / len(sure) if sure else None
    return {
        "num": len(mine),
        "num_sure": len(sure),
        "share": share,
        "share_stderr": None if share is None else math.sqrt(share * (1 - share) / len(sure)),
    }
