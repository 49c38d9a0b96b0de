"""Sends the snapshots of a training: a process of its own, which never holds the trainer up.

`pipeline.publishing.handing` starts this file as a module, writes one line of JSON to its standard
input, and closes that when training ends; so does the system when the trainer is killed. Each
snapshot becomes `snapshots/<training fingerprint>/<step>.parquet`, by way of the spool.
"""

import json
import os
import select
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.data import Patience
from pipeline.errors import PipelineError
from pipeline.files import read_object, scratch_folder
from pipeline.oxen.opening import open_repository
from pipeline.oxen.repository import named
from pipeline.publishing.publication import write_snapshot
from pipeline.publishing.spool import Spool, spool_for, waits
from pipeline.table import shown

POLL_SECONDS = 0.5


class Sender:
    """Flushes a spool in a thread whenever it is told that there is something new."""

    def __init__(self, spool: Spool, patience: Patience) -> None:
        self._spool, self._patience = spool, patience
        self._changed, self._last, self._said = threading.Event(), False, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something new waits."""
        self._changed.set()

    def end(self, seconds: float) -> None:
        """Send what waits, for so long at most."""
        self._last = True
        self.wake()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._last:
            self._changed.wait()
            self._changed.clear()
            flushed = self._spool.flush(self._patience)
            lines = flushed.refusals()
            if flushed.failure is not None:
                lines.append(waits(self._spool, flushed.failure))
            if lines and not self._said:
                self._said = True
                say(f"snapshots of training: {'; '.join(lines)}")


def say(line: str) -> None:
    """One line on standard error, which the trainer's own lines share."""
    print(shown(line), file=sys.stderr, flush=True)


def put_new(folder: Path, spool: Spool, repository: str, fingerprint: str) -> int:
    """Move the rows that the trainer has left in `folder` to the spool; their number.

    Raises:
        OSError: the disk is full; the row stays where it is.
    """
    num = 0
    for path in sorted(folder.glob("[0-9]*.json"), key=lambda path: int(path.stem)):
        if not path.exists():  # The process of a killed trainer was faster.
            continue
        row = read_object(path, "step", "loss", "eval_loss", "texts", "ids")
        with scratch_folder() as scratch:
            files = write_snapshot(scratch, fingerprint, row)
            spool.put(repository, files, f"Samples of step {row['step']} of {fingerprint}")
        path.unlink(missing_ok=True)
        num += 1
    return num


def push(request: Mapping[str, Any]) -> None:
    """Send rows as they appear, until standard input ends."""
    patience = Patience.model_validate(request["patience"])
    with named("publish.repo"):
        repository = str(open_repository(request["repo"], patience, create=True))
    spool = spool_for(repository)
    sender = Sender(spool, patience)
    ended, said = False, False
    while not ended:
        ended = bool(select.select([sys.stdin.buffer], [], [], POLL_SECONDS)[0])
        try:
            if put_new(Path(request["folder"]), spool, repository, request["fingerprint"]):
                sender.wake()
        except OSError as error:
            if not said:
                say(f"snapshots of training cannot be spooled: {error}")
            said = True
    if spool.items():
        sender.end(request["end_seconds"])


def main() -> None:
    """Serve one trainer, at the lowest priority."""
    # Ctrl-C reaches it too; it ends when the trainer does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(19)
    try:
        push(json.loads(sys.stdin.buffer.readline()))
    except PipelineError as error:
        say(f"snapshots of training are not sent: {error}")
    sys.stderr.flush()
    os._exit(0)  # Without waiting for a thread that waits for a server.


if __name__ == "__main__":
    main()
