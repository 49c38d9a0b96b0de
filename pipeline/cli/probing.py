"""Whether MLflow can be used, found out by a process that can be killed and imports beside us."""

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.errors import PipelineError, ServerError, reported


class Probe:
    """A process that opens MLflow's store at a URI."""

    def __init__(self, uri: str, until: float | None) -> None:
        """Start it; it has until that time of `time.monotonic`, for ever if None."""
        self._until = until
        self._seconds = 0.0 if until is None else until - time.monotonic()
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.probing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
        )
        # Not an argument, which everyone may read: a URI can hold a password.
        assert self._process.stdin is not None
        self._process.stdin.write(f"{uri}\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """Wait for it.

        Raises:
            ServerError: there is no answer in time.
            PipelineError: MLflow cannot be used.
        """
        left = None if self._until is None else max(0.0, self._until - time.monotonic())
        try:
            _, said = self._process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise ServerError(f"no answer within {self._seconds:.0f} s") from None
        if self._process.returncode:
            raise PipelineError((said.strip().splitlines() or ["?"])[-1].removeprefix("error: "))


@reported
def main() -> None:
    """Open the store whose URI is a line of standard input."""
    from pipeline.tracking.store import connected

    with connected(sys.stdin.readline().rstrip("\n")):
        pass


if __name__ == "__main__":
    main()
