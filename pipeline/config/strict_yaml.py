"""YAML that DVC reads the same: the plain values of version 1.2, nothing shared, nothing twice."""

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer

from pipeline.errors import PipelineError

MOST_BYTES = 2**20
MOST_LEVELS = 20
LONGEST_NUMBER = 100
BASES = {"0b": 2, "0o": 8, "0x": 16}
# Patterns and first characters, as ruamel.yaml, which DVC reads with, has them for version 1.2.
PLAIN = {
    "tag:yaml.org,2002:null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": ("true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:float": (
        r"[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9_]+([eE][-+][0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "tag:yaml.org,2002:int": (
        "[-+]?(0b[01_]+|0o?[0-7_]+|[0-9_]+|0x[0-9a-fA-F_]+)",
        list("-+0123456789"),
    ),
    # Dates, and what version 1.1 gives a meaning of its own: no value of ours.
    "!odd": (r"<<|=|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?", list("<=0123456789")),
}


def read_text(path: Path) -> str:
    """A YAML file's text, as it stands.

    Raises:
        FileNotFoundError: it is missing.
        PipelineError: it is too large, no UTF-8, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PipelineError(f"it cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise PipelineError(f"it is larger than {MOST_BYTES:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PipelineError(f"not valid YAML: it is no UTF-8 (byte {error.start})") from None


def parse(text: str) -> Any:
    """The values of a YAML document.

    Raises:
        PipelineError: as `compose`.
    """
    loader, node = _composed(text)
    return None if node is None else loader.construct_document(node)


def compose(text: str) -> yaml.Node | None:
    """The nodes of a YAML document.

    Raises:
        PipelineError: it is no YAML, or holds what DVC would refuse or read as something else, or
            what nobody needs here: a key twice, & and *, <<, tags, dates, many levels.
    """
    return _composed(text)[1]


def _composed(text: str) -> tuple["Loader", yaml.Node | None]:
    try:
        loader = Loader(text)
        return loader, loader.get_single_node()
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        raise PipelineError(f"not valid YAML: {' '.join(str(error).split())}") from None


class Loader(Composer, yaml.CSafeLoader):
    """Reads what libyaml parses, as DVC does; what is refused is named by line and keys."""

    def __init__(self, text: str) -> None:
        yaml.CSafeLoader.__init__(self, text)
        Composer.__init__(self)
        self._keys: list[str] = []

    def compose_document(self) -> yaml.Node | None:
        """The document's node."""
        start: Any = self.peek_event()
        if start.version or start.tags:
            self._refuse(start, "a line that begins with % is not read here")
        return super().compose_document()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; `index` is its place in a list, or its key's node, or None for a key."""
        place = index.value if isinstance(index, yaml.Node) else index
        self._keys.append("" if place is None else f"{place!s:.40}")
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self._refuse(event, "& and * are not read here: write the value where it belongs")
        if event.tag is not None:
            self._refuse(event, f"a tag is not read here (got {event.tag:.40})")
        if len(self._keys) > MOST_LEVELS:
            self._refuse(event, f"more than {MOST_LEVELS} levels")
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and not self._is_clear(node, event, parent):
            self._refuse(event, f"{node.value:.40} has no one meaning: write it in quotes")
        self._keys.pop()
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping whose keys are text, and there once."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag != self.DEFAULT_SCALAR_TAG:
                self._refuse(key, "a key must be text: write it in quotes")
            if key.value in seen:
                self._refuse(key, f"{key.value:.40}: it is there twice")
            seen.add(key.value)
        return node

    def _is_clear(self, node: yaml.ScalarNode, event: Any, parent: Any) -> bool:
        # DVC's libyaml takes no bare a:b or a? between brackets.
        in_brackets = parent is not None and parent.flow_style
        if in_brackets and event.implicit[0] and set(":?") & set(node.value):
            return False
        try:
            self.construct_object(node)
        except (ValueError, yaml.constructor.ConstructorError):
            return False
        return True

    def _refuse(self, at: Any, what: str) -> NoReturn:
        key = ".".join(filter(None, self._keys))
        raise PipelineError(f"line {at.start_mark.line + 1}: {key}{': ' if key else ''}{what}")


def _int(loader: Loader, node: yaml.ScalarNode) -> int:
    digits = node.value.replace("_", "")
    # Python shows no number of thousands of digits.
    if len(digits) > LONGEST_NUMBER:
        raise ValueError("too long a number")
    return int(digits, BASES.get(digits.lstrip("+-")[:2], 10))


# Not those of version 1.1, which are inherited.
Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in PLAIN.items():
    Loader.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), _first)
Loader.add_constructor("tag:yaml.org,2002:int", _int)
