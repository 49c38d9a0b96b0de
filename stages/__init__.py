"""Stages of dvc.yaml. Under a Python without the project's packages they say so and end."""

import importlib.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

if not all(importlib.util.find_spec(name) for name in ("dvc", "pydantic", "torch", "typer")):
    sys.exit(
        f"error: this stage was started with {sys.executable}, where the project is not "
        "installed: activate its environment (. .venv/bin/activate), or use `make repro`"
    )

# Packages that are imported below look for it, and end with a traceback where there is none.
try:
    tempfile.gettempdir()
except FileNotFoundError as error:
    sys.exit(f"error: no disk space left, or no folder, for temporary files: {error.strerror}")


TRAINED = threading.Event()
"""Set once no state of the training is left: it would be lost if the stage failed now."""


def run(main: Callable[..., None]) -> None:
    """Run a stage; what is typed wrong ends as every other mistake does, with status 1."""
    import typer

    from pipeline.errors import reported, typed

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(main)
    reported(typed(typer.main.get_command(app).main))(standalone_mode=False)


def _interrupted(*_: Any) -> None:
    if TRAINED.is_set():
        return
    if threading.main_thread().is_alive():
        sys.exit("error: interrupted")
    # Python is ending: what is raised now is lost, and DVC, deaf meanwhile, would go on.
    print("error: interrupted", file=sys.stderr, flush=True)
    os._exit(1)


def _starters() -> Any:
    from pipeline.files import starters

    return starters()


# Python's own handler would end what is imported now with a traceback.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _interrupted)
if "RANK" in os.environ:
    # One message says what went wrong among ranks, and not each library of each of them.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
if "PIPELINE_WORDS" in os.environ:
    from pipeline.scale.launch import follow

    follow()
# Before what takes seconds to import: a DVC that died meanwhile would not be missed.
STARTED_BY = _starters()
