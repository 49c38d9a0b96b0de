"""docs/architecture.md: its picture shows the imports of today, and what it names exists."""

import ast
import re

import architecture
from imports import imports_in, loose_files, room_of
from tiny_project import PROJECT

PAGE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::([\w.]+)`", PAGE)
ROOMS = {room_of(each.file) for each in imports_in(PROJECT)} - loose_files(PROJECT) - {"benchmarks"}


def shown(svg: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Rooms and arrows of a picture."""
    return set(re.findall(r'id="room-(\w+)"', svg)), set(re.findall(r'id="arrow-(\w+)-(\w+)"', svg))


def test_the_picture_shows_the_imports():
    svg = architecture.PICTURE.read_text(encoding="utf-8")
    rooms, arrows = shown(svg)
    cure = "PLACES in tests/architecture.py says where a room is, and running it draws anew"
    assert rooms ^ ROOMS == {"loose"}, cure
    assert arrows ^ architecture.drawn_arrows() == set(), cure
    assert architecture.LOOSE_TEXT in svg, cure


def test_what_is_drawn_is_what_the_test_reads(tmp_path, monkeypatch):
    arrows = {("cli", "training"), ("report", "loose")}
    monkeypatch.setattr(architecture, "drawn_arrows", lambda: arrows)
    architecture.draw(tmp_path / "picture.svg")
    assert shown((tmp_path / "picture.svg").read_text()) == (set(architecture.PLACES), arrows)


def test_arrows_go_down_and_pass_no_room():
    arrows = sorted(architecture.drawn_arrows())
    for start, end in arrows:
        assert architecture.box(start).y0 > architecture.box(end).y1, (start, end)
        way = architecture.curve(start, end, arrows)
        for other in architecture.PLACES.keys() - {start, end}:
            assert not way.intersects_bbox(architecture.box(other), filled=False), (start, other)


def test_arrows_that_others_imply_are_left_out():
    arrows = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("a", "d"), ("b", "e")]
    assert architecture.reduced(arrows) == {("a", "b"), ("b", "c"), ("c", "d"), ("b", "e")}


def test_the_table_has_every_room():
    table = PAGE.split("## The way of x0")[0]
    rooms = re.findall(r"^\| `(?:pipeline/)?(\w+)/`", table, re.MULTILINE)
    assert sorted(rooms) == sorted({*ROOMS, "benchmarks", "tests"})


def test_what_the_page_names_exists():
    assert len(NAMED) > 25
    for file, name in NAMED:
        path = PROJECT / file if file.startswith("stages/") else PROJECT / "pipeline" / file
        names: set[str] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            inside = getattr(node, "body", []) if isinstance(node, ast.ClassDef) else []
            names.add(getattr(node, "name", ""))
            names |= {f"{node.name}.{part.name}" for part in inside if hasattr(part, "name")}
        assert name in names, f"{file}::{name}"
