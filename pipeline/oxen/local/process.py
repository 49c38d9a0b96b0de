"""One operation on a local Oxen repository, in a process of its own.

`run` starts this file as a module, writes the operation to its standard input as JSON and reads the
answer from its standard output. Oxen keeps a repository's databases open, and shut to others, until
its process ends; and maps them into memory, so that damaged ones kill it.
"""

import json
import os
import signal
import subprocess
import sys
from typing import Any

from pipeline import errors
from pipeline.errors import PipelineError, RepositoryError
from pipeline.files import with_library

LONGEST_SECONDS = 3600.0
"""Of one operation."""


def run(operation: str, repository: str, **arguments: Any) -> Any:
    """What an operation of `reading` or `committing` returns for `arguments`, all plain JSON.

    Raises:
        PipelineError: whatever kind the operation raised; or its process died, or did not end.
        OSError: it ran out of disk space or may not write.
    """
    arguments = {"repository": repository, **arguments}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.oxen.local.process"],
            input=json.dumps({"operation": operation, "arguments": arguments}),
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=with_library(),
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RepositoryError(
            f"{repository}: Oxen has not ended {operation} within {LONGEST_SECONDS:.0f} s"
        ) from None
    if done.returncode:
        killer = -done.returncode
        end = signal.Signals(killer).name if killer > 0 else f"status {done.returncode}"
        raise RepositoryError(
            f"{repository}: Oxen's process ended with {end} during {operation}: is it damaged?"
        )
    answer = json.loads(done.stdout)
    if "errno" in answer:
        raise OSError(answer["errno"], answer["message"], answer["filename"])
    if "error" in answer:
        raise getattr(errors, answer["error"])(*answer["lines"])
    return answer["result"]


def _answer(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The result, or the error as its kind and lines."""
    from pipeline.oxen.local import committing, reading
    from pipeline.oxen.local.bindings import configure, oxen_errors

    operations = {each.__name__: each for each in (*committing.OPERATIONS, *reading.OPERATIONS)}
    try:
        with oxen_errors(arguments["repository"]):
            configure()
            return {"result": operations[operation](**arguments)}
    except PipelineError as error:
        return {"error": type(error).__name__, "lines": error.args}
    except OSError as error:
        return {"errno": error.errno, "message": error.strerror, "filename": error.filename}


def main() -> None:
    """Answer one request; what Oxen itself prints goes nowhere."""
    # Python's own handler would wait for Oxen's call to return.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    answers, notes = (os.fdopen(os.dup(fd), "w", encoding="utf-8") for fd in (1, 2))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.stderr = notes
    request = json.load(sys.stdin)
    json.dump(_answer(request["operation"], request["arguments"]), answers)
    answers.flush()


if __name__ == "__main__":
    main()
