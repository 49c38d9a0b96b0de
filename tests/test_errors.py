"""How mistakes, and what others wrote, reach a terminal."""

import os
import subprocess
import sys

import pytest
from tiny_project import PROJECT

from pipeline.errors import ParamsError, PipelineError, RepositoryError, reported
from pipeline.oxen.repository import named
from pipeline.table import LONGEST, aligned, shown
from stages import run, zero_shot_page


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
    for length in (20, 450, 5000):
        message = said(capsys, ParamsError(*["m" * length] * 1000)).rstrip("\n")
        assert len(message) <= LONGEST
        first, *others, last = message.splitlines()
        assert first.startswith("error: mmm")
        assert last == f"and {1000 - 1 - len(others)} more"
        assert others == ["m" * length] * len(others)
        assert bool(others) == (length < LONGEST / 2)


def test_all_lines_are_there_if_they_fit(capsys):
    lines = ["m" * 159] * 6
    assert said(capsys, ParamsError(*lines)) == "error: " + "\n".join(lines) + "\n"


def test_a_key_is_put_before_the_first_line(capsys):
    with pytest.raises(RepositoryError) as error, named("data.repo"):
        raise RepositoryError("no commit", "  one\nerror: forged")
    assert said(capsys, error.value) == "error: data.repo: no commit\n  one\\nerror: forged\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file", "x"), "x: No such file"),
        (PermissionError(13, "Permission denied", "/a\nb"), r"/a\nb: Permission denied"),
        (FileNotFoundError(2, "No such file"), "the working folder: No such file"),
        (OSError("odd"), "the working folder: odd"),
        (OSError(28, "No space", "x"), "no disk space left while writing x: free some"),
    ],
)
def test_what_a_system_refuses_is_a_line(capsys, error, line):
    assert said(capsys, error) == f"error: {line}\n"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([], "Missing argument 'found'."),
        (["a", "b", "c"], "Got unexpected extra argument(s) (c)"),
        (["a", "b", "--steps"], "No such option: --steps"),
    ],
)
def test_what_a_stage_is_not_asked_is_a_line(capsys, monkeypatch, given, line):
    monkeypatch.setattr(sys, "argv", ["stage", *given])
    with pytest.raises(SystemExit) as ended:
        run(zero_shot_page.main)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1


def test_a_working_folder_that_is_gone_is_a_line(tmp_path):
    code = "import os; from pipeline.errors import reported; "
    code += "os.rmdir(os.getcwd()); reported(print)(1)"
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error: the working folder: No such file or directory\n"


def test_without_standard_error_nothing_of_it_goes_to_standard_output():
    code = "import sys; from pipeline.errors import *; "
    code += "reported(lambda: (print('note', file=sys.stderr), print('text')))()"
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    done = subprocess.run(command, stdout=subprocess.PIPE, env={"PYTHONPATH": str(PROJECT)})
    assert (done.returncode, done.stdout) == (0, b"text\n")


def test_ctrl_c_while_a_stage_imports(tmp_path):
    (tmp_path / "typer.py").write_text("import os; os.kill(os.getpid(), 2)")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{PROJECT}"}
    # Not ignored, as it is by what shells start in their background.
    code = "import signal; signal.signal(2, signal.default_int_handler); import os, sys; "
    code += "os.execv(sys.executable, [sys.executable, '-m', 'stages.check', 'x'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True
    )
    assert (done.returncode, done.stderr) == (1, b"error: interrupted\n")


@pytest.mark.parametrize(
    ("trained", "status", "line"), [(False, 1, b"error: interrupted\n"), (True, 0, b"")]
)
def test_ctrl_c_while_a_stage_ends(trained, status, line):
    """Where DVC hears of it by the status alone; but no training is lost by it."""
    code = "import signal, sys; signal.signal(2, signal.default_int_handler); sys.argv = ['-m']; "
    code += "import atexit, os, stages; atexit.register(os.kill, os.getpid(), 2); "
    code += "stages.TRAINED.set()" if trained else ""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (status, line)


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
