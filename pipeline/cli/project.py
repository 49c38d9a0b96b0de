"""`sedd compare`, `ui`, `check`, `publish` and `clean`: the project around the models."""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import PipelineError, reported
from pipeline.table import shown

if TYPE_CHECKING:
    from pipeline.publishing.spool import Spool


@reported
def compare() -> None:
    """Print the tracked runs side by side."""
    from pipeline.config.params import load_params
    from pipeline.tracking.compare import format_table, runs

    tracking = load_params().tracking
    print(format_table(runs(tracking.uri, tracking.experiment)))


@reported
def ui() -> None:
    """Open MLflow's page over the tracked runs."""
    from pipeline.tracking.ui import main

    main()


@reported
def check() -> None:
    """Check params.yaml, this machine against it, and that DVC will start this Python."""
    from pipeline.config.params import load_params
    from pipeline.device import check_device

    check_device(load_params())
    check_python()
    print("params.yaml is valid, and `python` is this environment's")


def check_python() -> None:
    """Raise PipelineError unless `python`, which dvc.yaml's commands start, is this one."""
    python = shutil.which("python")
    if python is None:
        found = "there is no `python` in PATH, which DVC starts its stages with"
    else:
        command = [python, "-c", "import sys; print(sys.prefix)"]
        prefix = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if prefix and Path(prefix).resolve() == Path(sys.prefix).resolve():
            return
        found = f"DVC would start its stages with {python}, which is not of {sys.prefix}"
    activate = Path(sys.prefix) / "bin" / "activate"
    cure = f". {activate}" if activate.exists() else f"PATH={Path(sys.prefix) / 'bin'}:$PATH"
    raise PipelineError(f"{found}; first run: {cure}")


@reported
def publish(
    flush: Annotated[bool, typer.Option("--flush", help="Send it; without, only list it.")] = False,
) -> None:
    """List what waits to be sent to Oxen repositories, and send it with --flush.

    The status is 1 if anything still waits after that.
    """
    from pipeline.publishing.spool import waiting_spools

    spools = waiting_spools()
    if not spools:
        print("nothing waits to be sent")
    elif flush:
        sent = [_send(spool) for spool in spools]
        if not all(sent):
            raise SystemExit(1)
    else:
        for spool in spools:
            _list(spool)
        print("`sedd publish --flush` sends what waits")


def _send(spool: "Spool") -> bool:
    """Send what waits for one repository, and say so; whether nothing waits any more."""
    from pipeline.config.params import load_params

    repository = spool.items()[0].repository
    flushed = spool.flush(load_params().oxen)
    if flushed.sent:
        print(f"sent {_commits(len(flushed.sent))} to {repository}")
    if flushed.failure is None:
        return True
    left = _commits(len(spool.items()))
    why = shown(str(flushed.failure))
    print(f"still waiting: {left} for {repository} in {spool.folder} ({why})")
    return False


def _list(spool: "Spool") -> None:
    items = spool.items()
    print(f"waiting: {_commits(len(items))} for {items[0].repository} in {spool.folder}")
    for item in items:
        print(f"  {shown(item.message)}")


def _commits(num: int) -> str:
    return "1 commit" if num == 1 else f"{num} commits"


@reported
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Free it; without, only list it.")] = False,
) -> None:
    """List what unfinished training has left behind, and free it with --yes.

    What a running trainer holds stays. An unfinished run that is freed starts anew next time.
    """
    from pipeline.files import store

    left = leftovers(store() / "train")
    if not left:
        print("nothing is left: no training is unfinished")
        return
    for leftover in left:
        line = leftover.describe()
        if leftover.in_use:
            fate = "in use, kept"
        elif yes:
            fate = "freed" if leftover.free() else "in use, kept"
        else:
            fate = "left"
        print(f"{fate:12}  {shown(line)}")
    if not yes:
        print("`sedd clean --yes` frees what is left")


@dataclass(frozen=True)
class Leftover:
    """State of an unfinished training: a folder, and beside it the lock of its trainer."""

    folder: Path
    lock: Path
    in_use: bool

    def describe(self) -> str:
        """Folder, last step, size and age, one line."""
        files = [path for path in self.folder.rglob("*") if path.is_file()] or [self.lock]
        stats = [path.stat() for path in files if path.exists()]
        size = sum(stat.st_size for stat in stats)
        age = time.time() - max((stat.st_mtime for stat in stats), default=time.time())
        return f"{self.folder}  {self._step():12}  {size / 1e6:.1f} MB  {_duration(age)} ago"

    def free(self) -> bool:
        """Remove it; False if a trainer has taken it meanwhile."""
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.lock, blocking=False):
                if self.folder.exists():
                    shutil.rmtree(self.folder)
                self.lock.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def _step(self) -> str:
        import pickle

        import torch

        path = self.folder / "state.pt"
        if not path.exists():
            return "no step"
        try:
            # Mapped, not read: only the number is needed.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return f"step {state['step']}"
        except (RuntimeError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError):
            return "unreadable"


def leftovers(folder: Path) -> list[Leftover]:
    """Unfinished training under `folder`, by name."""
    places = {path for path in folder.glob("*") if path.is_dir()}
    places |= {path.with_suffix("") for path in folder.glob("*.lock")}
    return [
        Leftover(place, lock := place.with_suffix(".lock"), _is_held(lock))
        for place in sorted(places)
    ]


def _is_held(lock: Path) -> bool:
    from filelock import FileLock, Timeout

    if not lock.exists():
        return False
    try:
        with FileLock(lock, blocking=False):
            return False
    except Timeout:
        return True


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
