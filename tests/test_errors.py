import os
import subprocess
import sys

from tiny_project import PROJECT


def test_text_that_stdout_cannot_hold_is_escaped():
    code = "from pipeline.errors import reported; reported(print)('é א 👩')"
    for encoding, shown in (
        ("latin-1", "é \\u05d0 \\U0001f469\n"),
        ("ascii", "\\xe9 \\u05d0 \\U0001f469\n"),
        ("utf-8", "é א 👩\n"),
    ):
        environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == shown.encode(encoding)
