"""Questions to servers, asked all at once, each of which has an answer by a set time."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.errors import PipelineError, ServerError

T = TypeVar("T")


class Asked(Generic[T]):
    """A question that a thread puts at once; one that is never answered ends with the process."""

    def __init__(self, question: Callable[[], T], until: float) -> None:
        """Ask, and give it until that time of `time.monotonic`."""
        self._question, self._until = question, until
        self._seconds = until - time.monotonic()
        self._answers: list[T] = []
        self._error: PipelineError | None = None
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def answer(self) -> T:
        """What was answered.

        Raises:
            ServerError: nothing, in time.
            PipelineError: what the question raised.
        """
        self._thread.join(max(0.0, self._until - time.monotonic()))
        if self._error is not None:
            raise self._error
        if not self._answers:
            raise ServerError(f"no answer within {self._seconds:.0f} s")
        return self._answers[0]

    def _ask(self) -> None:
        try:
            self._answers.append(self._question())
        except PipelineError as error:
            self._error = error
