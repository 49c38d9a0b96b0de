"""`sedd doctor`: whether the pipeline could run here, line by line, and what to do if not."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError, reported
from pipeline.table import shown

if TYPE_CHECKING:
    from pipeline.cli.checks import Finding

WIDTH = len("publish.repo")
SECONDS = 10.0
"""After which servers that have not answered are given up."""


@reported
def doctor() -> None:
    """Look whether the pipeline could run here, and say what to do if not.

    The status is 1 if it could not. Takes 15 s at most, whatever servers do.
    """
    if not Path("params.yaml").exists() and not Path("dvc.yaml").exists():
        raise PipelineError(
            f"{Path.cwd()} is no project, as it has no params.yaml: run from the project's folder"
        )
    failed = False
    for name, finding in _findings():
        text = shown(" ".join(finding.text.split()))
        print(f"{name:{WIDTH}}  {finding.mark:4}  {text}", flush=True)
        failed = failed or finding.mark == "FAIL"
    if failed:
        raise SystemExit(1)


def _findings() -> "Iterator[tuple[str, Finding]]":
    """Each line, as soon as it is known; servers are asked while the rest is looked at."""
    from pipeline.cli import checks, server_checks
    from pipeline.cli.checks import Finding, found

    until = time.monotonic() + SECONDS
    params = checks.read_params()
    servers = {}
    if isinstance(params, str):
        yield "params.yaml", Finding("FAIL", f"{params}; what depends on it is not looked at")
    else:
        yield "params.yaml", Finding("ok", "valid")
        # Before torch, which takes seconds to import.
        servers["MLflow"] = server_checks.mlflow(params, until)
        servers["data.repo"] = server_checks.data_repo(params, until)
        servers["publish.repo"] = server_checks.publish_repo(params, until)
    yield "Python", found(checks.python)
    torch = checks.torch()
    yield "torch", torch
    if not isinstance(params, str) and torch.mark == "ok":
        yield "device", found(lambda: checks.device(params))
        yield "scorer", found(lambda: checks.scorer(params))
    yield "flash-attn", found(checks.flash_attn)
    yield "DVC", found(checks.dvc)
    yield "disk", found(checks.disk)
    yield "spool", found(checks.spool)
    for name, finish in servers.items():
        yield name, found(finish)
