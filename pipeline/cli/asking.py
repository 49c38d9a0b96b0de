"""Questions to servers, asked all at once, each of which has an answer by a set time."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from pipeline.errors import PipelineError, ServerError, reported
from pipeline.files import with_library

T = TypeVar("T")


class Asked(Generic[T]):
    """A question that a thread puts at once; one that is never answered ends with the process."""

    def __init__(self, question: Callable[[], T], until: float | None) -> None:
        """Ask, and give it until that time of `time.monotonic`; None of one that always ends."""
        self._until, self._seconds = until, left(until)
        self._future: Future[T] = Future()
        threading.Thread(target=self._ask, args=[question], daemon=True).start()

    def answer(self) -> T:
        """What was answered.

        Raises:
            ServerError: nothing, in time.
            PipelineError: what the question raised.
        """
        try:
            return self._future.result(left(self._until))
        except TimeoutError:
            raise ServerError(f"no answer within {self._seconds:.0f} s") from None

    def _ask(self, question: Callable[[], T]) -> None:
        try:
            self._future.set_result(question())
        except PipelineError as error:
            self._future.set_exception(error)


def left(until: float | None) -> float | None:
    """Seconds until that time of `time.monotonic`; None if there is no end."""
    return None if until is None else max(0.0, until - time.monotonic())


def probe(uri: str, seconds: float | None) -> None:
    """Have a process open MLflow's store at a URI, in so many seconds; for ever if None.

    A process can be killed, and imports MLflow beside this one.

    Raises:
        ServerError: there is no answer in time.
        PipelineError: MLflow cannot be used.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.asking"],
            input=f"{uri}\n",  # Not an argument, which everyone may read: it can hold a password.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=with_library(),
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServerError(f"no answer within {seconds:.0f} s") from None
    if done.returncode:
        raise PipelineError((done.stderr.strip().splitlines() or ["?"])[-1].removeprefix("error: "))


@reported
def main() -> None:
    """Open the store whose URI is a line of standard input."""
    from pipeline.tracking.store import connected

    with connected(sys.stdin.readline().rstrip("\n")):
        pass


if __name__ == "__main__":
    main()
