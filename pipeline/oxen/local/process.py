"""Operations of `pipeline.oxen.local.committing`, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline import errors


def run(operation: str, **arguments: Any) -> Any:
    """What `pipeline.oxen.local.committing.<operation>` returns for `arguments`, all plain JSON.

    Raises:
        PipelineError: whatever kind the operation raised.
        OSError: it ran out of disk space or may not write.
    """
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.oxen.local.committing"],
        input=json.dumps({"operation": operation, "arguments": arguments}),
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if done.returncode:
        raise errors.RepositoryError(
            f"Oxen's process ended with status {done.returncode} during {operation}"
        )
    answer = json.loads(done.stdout)
    if "errno" in answer:
        raise OSError(answer["errno"], answer["message"], answer["filename"])
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer["result"]
