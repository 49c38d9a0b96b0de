"""A set's figures as one HTML page: ours, and where they may stand there the published ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.references.tables import figure, table_of
from pipeline.templates import templates
from pipeline.zeroshot.showing import figure_rows


def render(found: Mapping[str, Any]) -> str:
    """The page of what the stage `zero_shot` wrote of a set."""
    page = templates(Path(__file__).parent).get_template("page.html.j2")
    protocols = [_protocol(result) for result in found["protocols"].values()]
    return page.render(found, protocols=protocols)


def _protocol(result: Mapping[str, Any]) -> dict[str, Any]:
    table = table_of(result)
    return {
        "protocol": result["protocol"],
        "figures": figure_rows(result),
        "metric": table and f"{table.metric}, {result['of']}",
        "published": table.column(result["of"]) if table else [],
        "ours": figure(result),
    }
