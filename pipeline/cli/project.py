"""`sedd compare`, `ui`, `check`, `publish` and `clean`: the project around the models."""

import shutil
import subprocess
import sys
from contextlib import nullcontext
from datetime import datetime
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
    from pipeline.files import check_folder

    params = load_params()
    check_device(params)
    check_folder("resources.store", params.resources.store)
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

    repository = spool.repository
    flushed = spool.flush(load_params().oxen)
    if flushed.sent:
        print(shown(f"sent {_commits(len(flushed.sent))} to {repository}"))
    for line in flushed.refusals():
        print(line)
    if flushed.failure is not None:
        left = _commits(len(spool.items()))
        why = shown(str(flushed.failure))
        print(shown(f"still waiting: {left} for {repository} in {spool.folder} ({why})"))
    return flushed.failure is None and not flushed.refused


def _list(spool: "Spool") -> None:
    items = spool.items()
    print(shown(f"waiting: {_commits(len(items))} for {spool.repository} in {spool.folder}"))
    for item in items:
        print(f"  {shown(item.message)}")


def _commits(num: int) -> str:
    return "1 commit" if num == 1 else f"{num} commits"


@reported
def clean(
    yes: Annotated[bool, typer.Option("--yes", help="Free it; without, only list it.")] = False,
) -> None:
    """List what unfinished stages have left behind, and free it with --yes.

    What a running stage holds stays. What is freed starts anew next time.
    """
    from filelock import FileLock, Timeout

    from pipeline.config.params import load_params
    from pipeline.scale.unfinished import all_unfinished

    left = all_unfinished(load_params().resources.store)
    if not left:
        print("nothing is left: no stage is unfinished")
        return
    for folder in left:
        line, lock = _described(folder), folder.with_suffix(".lock")
        fate = "left"
        try:
            # Nobody works without a lock, and listing makes none.
            with FileLock(lock, blocking=False) if yes or lock.exists() else nullcontext():
                if yes:
                    if folder.exists():
                        shutil.rmtree(folder)
                    lock.unlink(missing_ok=True)
                    fate = "freed"
        except Timeout:
            fate = "in use, kept"
        print(f"{fate:12}  {shown(line)}")
    if not yes:
        print("`sedd clean --yes` frees what is left")


def _described(folder: Path) -> str:
    """Folder, size and last change of what is unfinished, one line."""
    paths = (folder, folder.with_suffix(".lock"), *folder.rglob("*"))
    stats = [path.stat() for path in paths if path.exists()]
    size = sum(stat.st_size for stat in stats)
    changed = datetime.fromtimestamp(max((stat.st_mtime for stat in stats), default=0.0))
    return f"{folder}  {size / 1e6:.1f} MB  {changed:%Y-%m-%d %H:%M}"
