"""Questions to servers, asked all at once, each of which has an answer by a set time."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from pipeline.errors import PipelineError, ServerError

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
