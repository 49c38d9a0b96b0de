"""How mistakes, and what others wrote, reach a terminal."""

import os
import subprocess
import sys

import pytest
from tiny_project import PROJECT

from pipeline.errors import ParamsError, PipelineError, RepositoryError, reported
from pipeline.oxen.repository import named
from pipeline.table import LONGEST, aligned, shown


def said(capsys, error: Exception) -> str:
    @reported
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_every_argument_is_a_line(capsys):
    error = ParamsError("a: wrong", "b: wrong")
    assert str(error) == "a: wrong\nb: wrong"
    assert said(capsys, error) == "error: a: wrong\nb: wrong\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("boo\r\nerror: all is well", r"boo\r\nerror: all is well"),
        ("\x1b[2J\x1b]0;pwned\x07", r"\x1b[2J\x1b]0;pwned\x07"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("a\u2028b\u2029c\u202ed", r"a\u2028b\u2029c\u202ed"),
        ("\ud83d", r"\ud83d"),
        ("Łódź, 東京 🙂 a\\b", "Łódź, 東京 🙂 a\\b"),
    ],
)
def test_a_terminal_obeys_nothing(capsys, text, line):
    assert said(capsys, PipelineError(text)) == f"error: {line}\n"
    assert aligned([(text, "b")]) == f"{line}  b"


@pytest.mark.parametrize(
    "text", ["m" * 10**7, "\x1b" * 10**6, "é" * 1001, "\n" * 400], ids=range(4)
)
def test_a_long_message_keeps_its_ends(text):
    line = shown(f"here: {text}: do this")
    assert len(line) <= LONGEST
    assert line.startswith("here: ")
    assert line.endswith(": do this")


def test_many_lines_are_counted(capsys):
    lines = said(capsys, ParamsError(*map(str, range(1000)))).splitlines()
    assert len(lines) < 40
    assert lines[-1] == "and 970 more"


def test_a_key_is_put_before_the_first_line(capsys):
    with pytest.raises(RepositoryError) as error, named("data.repo"):
        raise RepositoryError("no commit", "  one\nerror: forged")
    assert said(capsys, error.value) == "error: data.repo: no commit\n  one\\nerror: forged\n"


def test_text_that_stdout_cannot_hold_is_escaped():
    code = "from pipeline.errors import reported; reported(print)('é א 👩')"
    for encoding, printed in (
        ("latin-1", "é \\u05d0 \\U0001f469\n"),
        ("ascii", "\\xe9 \\u05d0 \\U0001f469\n"),
        ("utf-8", "é א 👩\n"),
    ):
        environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == printed.encode(encoding)
