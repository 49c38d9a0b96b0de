"""Who imports whom: no circles, nothing imports what stands on top, a method stands alone."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from imports import (
    Import,
    between_files,
    between_rooms,
    circle,
    imports_in,
    loose_files,
    room_arrows,
    room_of,
)
from tiny_project import PROJECT

LOOSE = loose_files(PROJECT)
ON_TOP = ("stages/", "pipeline/cli/")
SHARED = (
    *(f"pipeline/methods/{name}.py" for name in ("draws", "estimates", "protocol", "samplers")),
    "pipeline/scale/units.py",
)
TENSORS = {"torch", *sys.stdlib_module_names}
# They are about methods themselves: the paper's own code and its checkpoints, and their speed.
ABOUT_METHODS = ("pipeline/checkpoints/reference/", "benchmarks/")


def circle_of_files(imports: list[Import]) -> list[Import]:
    """Files in a circle."""
    arrows = [(each.file, each.target) for each in between_files(imports)]
    found = circle(arrows)
    return [each for each in imports if (each.file, each.target) in found]


def circle_of_rooms(imports: list[Import]) -> list[Import]:
    """Rooms in a circle."""
    found = circle(sorted(room_arrows(imports)))
    return [
        each
        for each in between_rooms(imports)
        if (room_of(each.file), room_of(each.target)) in found
    ]


def import_of_what_stands_on_top(imports: list[Import]) -> list[Import]:
    """Stages and commands are started, never imported."""
    return [
        each
        for each in imports
        for top in ON_TOP
        if each.target.startswith(top) and not each.file.startswith(top)
    ]


def method_of(file: str) -> str | None:
    """The folder of the method that a file belongs to."""
    match = re.match(r"pipeline/methods/\w+/", file)
    return match and match[0]


def import_of_a_method(imports: list[Import]) -> list[Import]:
    """Everyone knows methods by their protocol and the registry alone."""
    return [
        each
        for each in imports
        if (method := method_of(each.target)) is not None
        and not each.file.startswith((method, *ABOUT_METHODS))
    ]


def import_into_the_mathematics(imports: list[Import]) -> list[Import]:
    """Methods, network and kernels import torch, the standard library, and downwards."""
    kernels = ("pipeline/kernels/",)
    network = ("pipeline/network/", *kernels)

    def allowed(file: str) -> tuple[str, ...] | None:
        if (method := method_of(file)) is not None:
            return (method, *SHARED, *network)
        if file.startswith(kernels):
            return kernels
        return network if file.startswith(network) else None

    return [
        each
        for each in imports
        if (files := allowed(each.file)) is not None
        and not each.target.startswith(files)
        and each.target not in TENSORS
        # A kernel of its own, imported where it is asked for.
        and (each.file, each.target) != ("pipeline/kernels/attention.py", "flash_attn")
    ]


Rule = Callable[[list[Import]], list[Import]]
# A rule, and a project that breaks it: files, and in them what is wrong.
BROKEN: list[tuple[Rule, dict[str, str], list[str]]] = [
    (
        circle_of_files,
        {
            "pipeline/data/a.py": "import torch\nfrom pipeline.data import b",
            "pipeline/data/b.py": "def f():\n    from pipeline.data.c import x",
            "pipeline/data/c.py": "from pipeline.data.a import x\nimport pipeline.data.d",
            "pipeline/data/d.py": "",
        },
        [
            "pipeline/data/a.py:2 -> pipeline/data/b.py",
            "pipeline/data/b.py:2 -> pipeline/data/c.py",
            "pipeline/data/c.py:1 -> pipeline/data/a.py",
        ],
    ),
    (
        circle_of_rooms,
        {
            "pipeline/data/a.py": "from pipeline import files",
            "pipeline/files.py": "from pipeline.oxen.b import x",
            "pipeline/oxen/b.py": "",
            "pipeline/oxen/c.py": "from pipeline.data import a",
        },
        [
            "pipeline/data/a.py:1 -> pipeline/files.py",
            "pipeline/files.py:1 -> pipeline/oxen/b.py",
            "pipeline/oxen/c.py:1 -> pipeline/data/a.py",
        ],
    ),
    (
        import_of_what_stands_on_top,
        {
            "stages/train.py": "from pipeline.cli import app",
            "pipeline/cli/__init__.py": "from pipeline.cli import tune",
            "pipeline/cli/tune.py": "",
            "pipeline/data/a.py": "import stages.train",
        },
        [
            "pipeline/data/a.py:1 -> stages/train.py",
            "stages/train.py:1 -> pipeline/cli/__init__.py",
        ],
    ),
    (
        import_of_a_method,
        {
            "pipeline/methods/one/a.py": "from pipeline.methods.two.b import x",
            "pipeline/methods/two/b.py": "from pipeline.methods.two import c",
            "pipeline/methods/two/c.py": "",
            "pipeline/training/a.py": "if x:\n    from pipeline.methods.one import a",
            "pipeline/checkpoints/a.py": "import pipeline.methods.one.a",
            "pipeline/checkpoints/reference/a.py": "import pipeline.methods.one.a",
            "pipeline/methods/registry.py": "from pipeline.methods.one import a",
        },
        [
            "pipeline/checkpoints/a.py:1 -> pipeline/methods/one/a.py",
            "pipeline/methods/one/a.py:1 -> pipeline/methods/two/b.py",
            "pipeline/methods/registry.py:1 -> pipeline/methods/one/a.py",
            "pipeline/training/a.py:2 -> pipeline/methods/one/a.py",
        ],
    ),
    (
        import_into_the_mathematics,
        {
            "pipeline/errors.py": "",
            "pipeline/methods/draws.py": "",
            "pipeline/methods/registry.py": "import json, numpy",
            "pipeline/methods/one/a.py": "from pipeline.methods import draws, registry",
            "pipeline/methods/one/b.py": "import math\nimport numpy as np",
            "pipeline/network/a.py": "from pipeline.kernels import a\nfrom pipeline import errors",
            "pipeline/network/b.py": "from pipeline.methods.draws import x",
            "pipeline/methods/one/c.py": "from pipeline.network import a, b",
            "pipeline/kernels/a.py": "from pipeline.network import b\nfrom torch import nn",
            "pipeline/kernels/b.py": "import flash_attn",
        },
        [
            "pipeline/kernels/a.py:1 -> pipeline/network/b.py",
            "pipeline/kernels/b.py:1 -> flash_attn",
            "pipeline/methods/one/a.py:1 -> pipeline/methods/registry.py",
            "pipeline/methods/one/b.py:2 -> numpy",
            "pipeline/network/a.py:2 -> pipeline/errors.py",
            "pipeline/network/b.py:1 -> pipeline/methods/draws.py",
        ],
    ),
]
RULES = [rule for rule, _, _ in BROKEN]


def named(found: list[Import]) -> list[str]:
    return sorted(map(str, found))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule):
    assert named(rule(imports_in(PROJECT))) == []


@pytest.mark.parametrize(("rule", "files", "wrong"), BROKEN, ids=[r.__name__ for r in RULES])
def test_a_project_that_breaks_the_rule_is_found_out(rule, files, wrong, tmp_path):
    write(tmp_path, files)
    assert named(rule(imports_in(tmp_path))) == wrong


def test_imports_for_type_checkers_alone_do_not_count(tmp_path):
    source = "if TYPE_CHECKING:\n    import pipeline.b\nelse:\n    import pipeline.c"
    write(tmp_path, {"pipeline/a.py": source, "pipeline/b.py": "", "pipeline/c.py": ""})
    assert named(imports_in(tmp_path)) == ["pipeline/a.py:4 -> pipeline/c.py"]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)


# Whom a room imports. Loose files are everyone's, and stages, commands and benchmarks import any.
ROOMS = {
    "kernels": "",
    "scale": "",
    "network": "kernels",
    "methods": "network kernels scale",
    "config": "methods",
    "data": "config",
    "oxen": "config data",
    "checkpoints": "config methods network kernels",
    "training": "config data checkpoints methods kernels scale",
    "baseline": "config data training kernels scale",
    "evaluation": "config data methods kernels scale",
    "references": "config",
    "zeroshot": "config data methods kernels evaluation oxen references scale",
    "harness": "data checkpoints methods kernels scale",
    "report": "config references",
    "tracking": "config",
    "publishing": "config oxen huggingface",
    "huggingface": "config data checkpoints methods oxen",
}


def test_rooms_import_what_the_table_says():
    found = {
        room: set() for room in {room_of(each.file) for each in imports_in(PROJECT)} - {"__init__"}
    }
    for room, other in room_arrows(imports_in(PROJECT)):
        found[room].add(other)
    assert all(found.pop(room) <= LOOSE for room in LOOSE & found.keys())
    for top in ("stages", "cli", "benchmarks"):
        del found[top]
    table = {room: set(others.split()) for room, others in ROOMS.items()}
    assert {room: others - LOOSE for room, others in found.items()} == table
