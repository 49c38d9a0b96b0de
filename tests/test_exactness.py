"""Every test that docs/exactness.md names exists, and its commands are those of the CLI."""

import ast
import re

from tiny_project import PROJECT

PAGE = (PROJECT / "docs" / "exactness.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def test_the_tests_that_the_page_names_exist():
    assert len(NAMED) > 25
    for path, name in NAMED:
        source = (PROJECT / "tests" / path).read_text(encoding="utf-8")
        functions = {node.name for node in ast.parse(source).body if hasattr(node, "name")}
        assert name in functions, f"{path}::{name}"


def test_every_claim_names_a_test():
    tables = [block for block in PAGE.split("\n\n") if block.startswith("| what holds")]
    assert len(tables) == 3
    for row in (row for table in tables for row in table.splitlines()[2:]):
        assert "::" in row, row


def test_the_fixtures_of_its_commands_exist():
    folders = re.findall(r"sedd verify (tests/\S+)", PAGE)
    assert folders
    assert all((PROJECT / folder).is_dir() for folder in folders)
