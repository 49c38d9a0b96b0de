"""Values of a YAML file replaced where they stand; layout, comments and the rest stay."""

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.strict_yaml import compose, parse, read_text
from pipeline.errors import PipelineError
from pipeline.files import whole

Scalar = str | int | float | bool | None
Value = Scalar | list[int] | list[float]


def edit_yaml(path: Path, values: Mapping[str, Value]) -> None:
    """Replace values in the file at `path`, by dotted key; the file changes whole or not at all.

    A list takes the place of one, in brackets.

    Raises:
        PipelineError: the file is missing or no YAML, a key is not there, or its value cannot be
            replaced where it stands; the file is as it was.
    """
    try:
        new = edited(read_text(path), values)
    except FileNotFoundError:
        raise PipelineError(f"{path} is missing") from None
    except PipelineError as error:
        raise PipelineError(f"{path}: {error}") from None
    # A link stays one, and the file keeps its mode.
    path = path.resolve()
    with whole(path) as partial:
        partial.write_bytes(new.encode("utf-8"))
        shutil.copymode(path, partial)


def edited(text: str, values: Mapping[str, Value]) -> str:
    """The YAML `text` with values replaced, by dotted key.

    Raises:
        PipelineError: as `edit_yaml`.
    """
    # libyaml's marks do not count a mark of byte order.
    order = text[: text.startswith("\ufeff")]
    text = text.removeprefix(order)
    root, expected = compose(text), parse(text)
    places = {}
    for key, value in values.items():
        node = _node(root, key, isinstance(value, list))
        places[_place(text, node)] = _written(value)
        *sections, leaf = key.split(".")
        section = expected
        for name in sections:
            section = section[name]
        section[leaf] = value
    new = text
    for (start, end), written in sorted(places.items(), reverse=True):
        new = _replaced(new, start, end, written)
    # What is written over several lines does not bear it.
    if not _reads_as(new, expected):
        raise PipelineError(
            f"{', '.join(values)}: cannot be changed where it stands; write each value on the line "
            "of its key"
        )
    return order + new


def _node(root: yaml.Node | None, key: str, is_list: bool) -> yaml.Node:
    """The scalar, or the list, at a dotted key."""
    node = root
    for name in key.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for at, value in pairs if at.value == name), None)
        if node is None:
            raise PipelineError(f"{key} is not there, and its value cannot be replaced")
    if not isinstance(node, yaml.SequenceNode if is_list else yaml.ScalarNode):
        if is_list:
            raise PipelineError(f"{key} holds no list, and cannot become one where it stands")
        raise PipelineError(f"{key} holds several values; name one of them")
    return node


def _place(text: str, node: yaml.Node) -> tuple[int, int]:
    """Where a value begins and ends; of a list over several lines, as DVC's -S writes one, all of
    them, from behind the colon on."""
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        start, end = text.rindex(":", 0, start) + 1, node.value[-1].end_mark.index
        if "#" in text[start:end]:
            raise PipelineError(f"line {node.start_mark.line + 1}: a comment within a list is lost")
    return start, end


def _replaced(text: str, start: int, end: int, written: str) -> str:
    """`text` with `written` from `start` to `end`; a comment behind keeps its column if it can."""
    # An empty value stands right after its colon, and so does a list over several lines.
    written = f" {written}" if text[start - 1 : start] == ":" else written
    after = text[end:]
    if comment := re.match(" +(?=#)", after):
        room = comment.end() + (end - start) - len(written)
        after = " " * max(1, room) + after[comment.end() :]
    return text[:start] + written + after


def _written(value: Value) -> str:
    """`value` as one line of YAML that stands anywhere, between brackets too."""
    written = yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True)
    # 1e5 is text to PyYAML's writer.
    if written.count("\n") == 1 and _reads_as(written, [value]):
        return written[1:-2]
    return yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=True)[:-1]


def _reads_as(text: str, expected: Any) -> bool:
    # By repr: 1 equals true and 1.0, and no nan equals another.
    try:
        return repr(parse(text)) == repr(expected)
    except PipelineError:
        return False
