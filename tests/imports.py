"""Which file imports which, read from the source: inside functions too, not for type checkers.

`python -m` in a process of its own and the registry's lazy import of a method are no imports here.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOTS = ("pipeline", "stages", "benchmarks")


@dataclass(frozen=True)
class Import:
    """A file imports `target`: a file of the project, or another library by its first name."""

    file: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} -> {self.target}"


@cache
def imports_in(project: Path) -> tuple[Import, ...]:
    """Every import of the project's files in ROOTS."""
    files = [file for root in ROOTS for file in sorted((project / root).rglob("*.py"))]
    return tuple(
        Import(file.relative_to(project).as_posix(), line, _target(project, name))
        for file in files
        for line, name in _imported(ast.parse(file.read_text(encoding="utf-8")))
    )


def _imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of whatever is imported at run time."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import: {ast.unparse(node)}"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _target(project: Path, name: str) -> str:
    """The file that `name`, or what it is a name in, lies in."""
    parts = name.split(".")
    if parts[0] not in ROOTS:
        return parts[0]
    for end in range(len(parts), 0, -1):
        path = "/".join(parts[:end])
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if (project / file).is_file():
                return file
    return parts[0]


def room_of(file: str) -> str:
    """The first folder under pipeline/, or stages, or benchmarks; a loose file is its own room."""
    first, *rest = Path(file).parts
    return rest[0].removesuffix(".py") if first == "pipeline" and rest else first


def loose_files(project: Path) -> set[str]:
    """Rooms that are a single file."""
    return {path.stem for path in (project / "pipeline").glob("*.py")} - {"__init__"}


def between_files(imports: Iterable[Import]) -> list[Import]:
    """Imports of the project's own files."""
    return [each for each in imports if each.target.endswith(".py")]


def between_rooms(imports: Iterable[Import]) -> list[Import]:
    """Imports of files in other rooms."""
    return [each for each in between_files(imports) if room_of(each.file) != room_of(each.target)]


def room_arrows(imports: Iterable[Import]) -> set[tuple[str, str]]:
    """Pairs of rooms, the first of which imports the second."""
    return {(room_of(each.file), room_of(each.target)) for each in between_rooms(imports)}


def circle(arrows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows of one circle, if there is any."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for start, end in arrows:
        sorter.add(start, end)
    try:
        sorter.prepare()
    except CycleError as error:
        return list(pairwise(error.args[1][::-1]))
    return []
