"""Whether MLflow can be used, found out by a process that can be killed and imports beside us."""

import subprocess
import sys

from pipeline.errors import PipelineError, ServerError, reported
from pipeline.files import with_library


def probe(uri: str, seconds: float | None) -> None:
    """Have a process open MLflow's store at a URI, in so many seconds; for ever if None.

    Raises:
        ServerError: there is no answer in time.
        PipelineError: MLflow cannot be used.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.probing"],
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
