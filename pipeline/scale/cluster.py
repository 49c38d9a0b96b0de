"""Work shared among the machines of a Ray cluster: tasks of its core, results in their order."""

import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pipeline.environment import check_extra
from pipeline.errors import Interrupted, PipelineError

T = TypeVar("T")
R = TypeVar("R")
InOrder = Callable[[Callable[[T], R], Sequence[T]], Iterator[R]]
LIBRARY = Path(__file__).resolve().parents[2]
PATIENCE = 30.0
"""Seconds in which a cluster must answer; Ray itself goes on asking for minutes."""
RETRIES = 3
"""How often a task is run again, of which a worker or a machine was lost."""
JOIN = """
import sys, ray
try:
    ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
except Exception as error:
    sys.exit(f"SAID {error}")
"""


@contextmanager
def cluster(address: str) -> Iterator[InOrder[Any, Any]]:
    """Join a Ray cluster; what computes a function of each of many items there, in their order.

    Args:
        address: HOST:PORT; auto for that of this machine, or of RAY_ADDRESS.
    Raises:
        PipelineError: Ray is not installed; none answers, or one of another version; a worker
            cannot import this project, or was lost too often; or what the function raises.
        Interrupted: a signal came.
    """
    check_extra("ray", "resources.pack: ray")
    _check_answers(address)
    import ray

    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    if not ray.cluster_resources().get("CPU"):
        said = f"resources.pack: ray: no machine at {address} computes yet: waiting for one"
        print(said, file=sys.stderr, flush=True)
    try:
        yield _in_order
    except SystemExit:  # Of a signal's handler, whose words Ray drops.
        raise Interrupted("interrupted") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PipelineError):
            raise error.cause from None
        if "No module named 'pipeline" not in str(error):
            raise
        raise PipelineError(
            f"resources.pack: ray: a worker cannot import this project: each machine needs its "
            f"folder, {LIBRARY}, and its environment"
        ) from None
    except ray.exceptions.RayError as error:
        said = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise PipelineError(f"resources.pack: ray: {said}") from None
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    command = [sys.executable, "-c", JOIN, address]
    try:
        joined = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        said = f"no Ray answers within {PATIENCE:.0f} s"
    else:
        if joined.returncode == 0:
            return
        words = joined.stderr.partition("SAID ")[2] or joined.stderr
        said = " ".join(words.split()).rstrip(".")
    raise PipelineError(
        f"resources.ray_address: {said} (got {address}): start one with `ray start --head`"
    )


def _in_order(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    import ray

    task = ray.remote(max_retries=RETRIES)(_run)
    under_way: deque[Any] = deque()
    for item in items:
        under_way.append(task.remote(LIBRARY, function, item))
        # Machines may come and go.
        if len(under_way) > 2 * ray.cluster_resources().get("CPU", 1):
            yield ray.get(under_way.popleft())
    while under_way:
        yield ray.get(under_way.popleft())


def _run(library: Path, function: Callable[[T], R], item: T) -> R:
    """On a worker."""
    if library != LIBRARY:
        raise PipelineError(
            f"{socket.gethostname()} has this project in {LIBRARY}, not in {library}: machines "
            "must share its folder"
        )
    return function(item)
