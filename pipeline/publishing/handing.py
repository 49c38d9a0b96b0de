"""Snapshots handed to a process of its own, which sends them away while training goes on.

It is started by name, so that training does not depend on what it needs.
Rows reach it as files in the folder of the training state. It ends when the pipe to it closes:
with training, however that ends.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.files import with_library, write_json
from pipeline.table import shown

PUSHER = "pipeline.publishing.pushing"
END_SECONDS = 20.0
"""How long the process may go on sending after training; what is left then waits in the spool."""
GRACE_SECONDS = 10.0
"""How much longer it may take to end before it is killed."""

Push = Callable[[dict[str, Any]], None]


@contextmanager
def pushing(on: bool, state: Path, request: dict[str, Any]) -> Iterator[Push]:
    """Yield what hands a row of snapshots over; nothing that goes wrong there stops training.

    Args:
        on: whether there is anything to do.
        state: folder of the training state; its name is the training's fingerprint.
        request: repository and patience, as `pipeline.publishing.pushing` reads them.
    """
    if not on:
        yield lambda row: None
        return
    folder = state / "snapshots"
    folder.mkdir(exist_ok=True)
    process = _start({**request, "folder": str(folder), "fingerprint": state.name})
    try:
        yield lambda row: _hand_over(folder, row)
    finally:
        _end(process)
        if left := list(folder.glob("[0-9]*.json")):
            print(f"{len(left)} snapshots of training are not sent, nor spooled", file=sys.stderr)


def _start(request: dict[str, Any]) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-m", PUSHER],
        stdin=subprocess.PIPE,
        bufsize=0,
        stdout=subprocess.DEVNULL,
        env=with_library(),
    )
    assert process.stdin is not None
    line = json.dumps({**request, "end_seconds": END_SECONDS}) + "\n"
    with suppress(BrokenPipeError):  # It has ended, and has said why.
        process.stdin.write(line.encode())
    return process


def _hand_over(folder: Path, row: dict[str, Any]) -> None:
    try:
        write_json(folder / f"{row['step']}.json", row)
    except (OSError, ValueError) as error:  # A full disk, or a loss that is no number.
        print(shown(f"the snapshot of step {row['step']} is not sent: {error}"), file=sys.stderr)


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(END_SECONDS + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
