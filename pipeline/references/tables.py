"""Published figures, and ours beside them: a table for each protocol, with no other in it."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.config.sections import Positive, Section, Text
from pipeline.table import aligned

if TYPE_CHECKING:
    from pipeline.references.trained import Mine

REFERENCES = Path(__file__).with_name("references.yaml")


class Row(Section):
    """A model's figures on the sets of its table, from one source."""

    model: Text
    size: Text
    values: list[Positive]
    source: Text
    exact: bool = False

    @property
    def shown(self) -> list[str]:
        """The values, those of a bound with its sign."""
        return [f"{'' if self.exact else '≤ '}{value:.2f}" for value in self.values]


class Table(Section):
    """Figures that may stand beside each other."""

    metric: Text
    protocol: Text
    sets: list[Text]
    rows: list[Row]

    def column(self, name: str) -> list[tuple[str, str, str, str]]:
        """Model, size, value and source of each row, for one of the sets."""
        place = self.sets.index(name)
        return [(row.model, row.size, row.shown[place], row.source) for row in self.rows]


@cache
def published() -> tuple[Table, ...]:
    """The tables that ship."""
    values = yaml.safe_load(REFERENCES.read_text(encoding="utf-8"))
    return tuple(Table.model_validate(each) for each in values)


def rows_of(protocol: str) -> list[list[str]]:
    """Model, size, each value and source of the rows of a protocol's table."""
    table = next(table for table in published() if table.protocol == protocol)
    return [[row.model, row.size, *row.shown, row.source] for row in table.rows]


def beside(results: Mapping[str, Mapping[str, Any]], trained: "Sequence[Mine]" = ()) -> str:
    """The published tables, each with our figures that may stand in it, and below what may not.

    Args:
        results: our name of a set -> protocol -> what `evaluation.score` found.
        trained: figures of the last run, for tables of models that were trained on the same text.
    """
    ours = [(name, each) for name, by in results.items() for each in by.values()]
    parts = [
        _shown(
            table,
            [each for each in ours if table_of(each[1]) is table],
            [each for each in trained if each.protocol == table.protocol and not each.differs],
        )
        for table in published()
    ]
    others = [
        f"{name}, protocol {result['protocol']}: {line(result)}"
        for name, result in ours
        if result["comparable_with"] is None
    ]
    others += [f"{each.data}, {each.name}: {each.line}" for each in trained if each.differs]
    return "\n\n".join([*parts, "\n".join(others)] if others else parts)


def figure(result: Mapping[str, Any]) -> str:
    """Our perplexity a token with its standard error, as tables show it."""
    value, stderr = result["perplexity_per_token"], result["perplexity_per_token_stderr"]
    return "beyond all numbers" if value is None else f"≤ {value:.2f} ± {stderr:.2f}"


def line(result: Mapping[str, Any]) -> str:
    """Our perplexity a token, and the published ones it may stand beside or else why none."""
    table = table_of(result)
    if table is None:
        return f"{figure(result)}; in no table: {'; '.join(result['differs'])}"
    column = table.column(result["of"])
    theirs = ", ".join(f"{model} {size} {value}" for model, size, value, _ in column)
    return f"{figure(result)}; published: {theirs}"


def table_of(result: Mapping[str, Any]) -> Table | None:
    """The published table that a result may stand in."""
    if result["comparable_with"] is None:
        return None
    return next(table for table in published() if table.protocol == result["protocol"])


def _shown(
    table: Table, ours: Iterable[tuple[str, Mapping[str, Any]]], trained: "Iterable[Mine]"
) -> str:
    lines = [["", "size", *table.sets, "source"], *rows_of(table.protocol)]
    for name, result in ours:
        cells = [figure(result) if result["of"] == each else "" for each in table.sets]
        lines.append([f"ours, {name}", "", *cells, "this run"])
    lines += [[f"ours, of {each.data}", "", *each.cells, "this run"] for each in trained]
    return f"{table.metric} · protocol {table.protocol}\n{aligned(lines)}"
