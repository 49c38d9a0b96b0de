"""The README's commands are those that tests run, and what it names exists."""

import re

from tiny_project import PROJECT, readme_blocks

README = (PROJECT / "README.md").read_text()


def test_pictures_and_files_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (PROJECT / path).is_file(), path
    for path in re.findall(r"^\| `([^`]+)`", README, re.MULTILINE):
        if "/" in path or path.endswith(".yaml"):
            assert (PROJECT / path).exists(), path


def test_there_are_commands_for_the_end_to_end_test_to_run():
    lines = [line for block in readme_blocks() for line in block]
    assert "dvc exp run -S steps=1024" in lines
    assert any(line.startswith("sedd infill") for line in lines)


def test_links_lead_somewhere():
    for page in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
