"""A stage's units shared among ranks, which the stage starts: they fill its folder, and it goes on.

No rank waits for a collective of all, so that shares may take as unlike times as they like.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.device import check_ranks
from pipeline.files import store
from pipeline.scale.launch import is_followed, launch, leave_finished
from pipeline.scale.units import Units

if TYPE_CHECKING:
    from pipeline.config.params import Resources

POLL_SECONDS = 0.05


def starting(module: str, resources: "Resources", device: str) -> Callable[[], object] | None:
    """What runs a stage's module again as ranks; None where one process is to do it all.

    Raises:
        ParamsError: this machine has no device for each rank.
    """
    if resources.num_ranks == 1 or resources.launcher == "env" or "RANK" in os.environ:
        return None
    check_ranks(resources, device)
    return lambda: launch(module, sys.argv[1:], store=store(), **resources.of_ranks)


def share_of(folder: Path) -> Units:
    """The units of this process, which is a rank, in a folder that all of them have."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return Units(folder, mine=lambda index: index % size == rank, wait=_poll)


def end_share() -> None:
    """End this process, if it is a rank: every unit has its result."""
    if is_followed():
        if os.environ["RANK"] == "0":
            leave_finished("")
        raise SystemExit(0)


def _poll(is_done: Callable[[], bool]) -> None:
    # A rank that dies takes the others with it.
    while not is_done():
        time.sleep(POLL_SECONDS)
