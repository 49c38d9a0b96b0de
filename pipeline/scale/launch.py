"""A stage as several ranks: it starts them itself, passes signals on, and says what went wrong.

The agent is torchrun's, called as a library. Ranks leave word of what ends them in a folder, and
of all words the launching process shows the one that tells the cause.
"""

import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from pipeline import errors
from pipeline.errors import Interrupted, PipelineError
from pipeline.files import scratch_folder, write_json

WORDS = "PIPELINE_WORDS"
"""Environment variable: the folder where a rank leaves word."""
LEADER = "PIPELINE_LEADER"
"""Environment variable: the process that started a rank on this machine, with which it ends."""
FINISHED = "finished"
"""The first rank's word for the launching process, beside those of errors."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h
_words: Path | None = None


def follow() -> None:
    """Let this process, which is a rank, end with the one that started it, which speaks for it."""
    global _words
    _words = Path(os.environ.pop(WORDS))  # Processes that it starts are no ranks.
    errors.tell = _leave_word
    sys.excepthook = _leave_traceback
    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
    if LEADER in os.environ:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[LEADER]):
            os._exit(1)


def _leave_traceback(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    _leave_word("Traceback", "".join(traceback.format_exception(kind, error, where)))


def _leave_word(kind: str, message: str) -> None:
    assert _words is not None
    word = {"kind": kind, "message": message, "time": time.time()}
    write_json(_words / f"{os.environ['RANK']}.json", word)


def is_followed() -> bool:
    """Whether another process started this rank, and goes on when it has ended."""
    return _words is not None


def leave_finished(text: str) -> None:
    """Leave the launching process a last word."""
    assert _words is not None
    (_words / FINISHED).write_text(text, encoding="utf-8")


def launch(
    module: str,
    arguments: Sequence[str],
    *,
    processes: int,
    nodes: int,
    launcher: str,
    timeout_seconds: int,
    store: Path,
) -> str:
    """Run a module as ranks until all have ended; returns what `leave_finished` was given.

    Args:
        processes: on each node.
        launcher: local or slurm.
        timeout_seconds: how long ranks may take to end when they are told to.
        store: a folder that all nodes have, where there are several.
    Raises:
        PipelineError: what the rank said that failed first, or how it ended.
        Interrupted: a signal came.
    """
    with _place_of_words(store if launcher == "slurm" else None) as folder:
        threads = max(1, (os.cpu_count() or 1) // processes)
        given = {
            WORDS: str(folder),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        }
        command = [sys.executable, "-u", "-m", module, *arguments]
        with _kept_signals(), _environment(given):
            if launcher == "slurm":
                ended = _by_srun(command, processes, nodes)
            else:
                ended = _by_torchrun(command, processes, timeout_seconds, folder)
        if ended is not None:
            _say(folder, ended)
        return (folder / FINISHED).read_text(encoding="utf-8")


@contextmanager
def _place_of_words(store: Path | None) -> Iterator[Path]:
    """A folder for the words of ranks, in one that all nodes have if there are several."""
    if store is None:
        with scratch_folder() as folder:
            yield folder
        return
    # Whether what a killed one left is still in use cannot be told of another machine's.
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ranks-", dir=store) as name:
        yield Path(name)


def _by_torchrun(command: list[str], processes: int, timeout: int, folder: Path) -> str | None:
    """Ranks on this machine; how they failed, or None."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The first rank alone writes to the terminal.
    quiet = dict.fromkeys(range(1, processes), Std.ALL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        local_addr="localhost",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs"), redirects=quiet),
        virtual_local_rank=True,
        shutdown_timeout=timeout,
    )
    logging.disable(logging.CRITICAL)  # What is wrong is said once, by `launch`.
    try:
        with _environment({LEADER: str(os.getpid())}):
            elastic_launch(config, command[0])(*command[1:])
    except SignalException:
        return "interrupted"
    except ChildFailedError as error:
        ends = {rank: failure.exitcode for rank, failure in error.failures.items()}
        rank = min(ends, key=lambda each: (ends[each] != -signal.SIGKILL, ends[each]))
        return _ended(rank, ends[rank])
    finally:
        logging.disable(logging.NOTSET)
    return None


def _by_srun(command: list[str], processes: int, nodes: int) -> str | None:
    """Ranks on the nodes of the allocation that this process is in; how they failed, or None."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    given = {
        "WORLD_SIZE": str(processes * nodes),
        "MASTER_ADDR": socket.gethostname(),
        "MASTER_PORT": str(port),
    }
    as_rank = 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$@"'
    asked = [f"--nodes={nodes}", f"--ntasks-per-node={processes}", "--kill-on-bad-exit=1"]
    with _environment(given):
        ranks = subprocess.Popen(["srun", *asked, "sh", "-c", as_rank, "sh", *command])
    received: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        ranks.send_signal(signal.SIGTERM)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    status = ranks.wait()
    if received:
        return "interrupted"
    return f"srun ended with status {status}" if status else None


def _say(folder: Path, ended: str) -> NoReturn:
    """Raise what tells the cause: what a rank did wrong, else how one ended."""
    words = [json.loads(path.read_bytes()) for path in folder.glob("*.json")]
    words.sort(key=lambda word: word["time"])
    said = [word for word in words if word["kind"] not in ("PeerError", "Traceback")]
    raised = [word for word in words if word["kind"] == "Traceback"]
    silent = [word for word in words if word["kind"] == "PeerError" and "silent" in word["message"]]
    if ended == "interrupted" or any(word["kind"] == "Interrupted" for word in said):
        raise Interrupted(said[0]["message"] if said else ended)
    if said or silent:
        raise PipelineError(*(said or silent)[0]["message"].splitlines())
    if raised and "SIGKILL" not in ended:
        sys.stderr.write(raised[0]["message"])
        raise SystemExit(1)
    raise PipelineError(ended)


def _ended(rank: int, status: int) -> str:
    if status >= 0:
        return f"rank {rank} ended with status {status}"
    return f"rank {rank} was killed by {signal.Signals(-status).name}; the next run goes on"


@contextmanager
def _environment(given: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _kept_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
