"""A training stage as one process or as the ranks that params.yaml asks for, and its end."""

import os
import sys
from pathlib import Path
from threading import Event

import psutil

from pipeline.config.params import Params
from pipeline.device import check_ranks
from pipeline.errors import ParamsError
from pipeline.files import store
from pipeline.scale.launch import is_followed, launch, leave_finished
from pipeline.training.state import TrainingState, finish_training


def as_ranks(module: str, params: Params, started_by: list[psutil.Process], trained: Event) -> bool:
    """Run a stage's module as several processes; False where one is to do it, or this is a rank.

    The state of the training is removed here, where it is known whether what started the stage
    still lives.

    Args:
        started_by: the `starters` of this process.
        trained: set once no state is left.
    Raises:
        PipelineError: ranks cannot be, or one failed.
    """
    resources = params.resources
    if resources.num_ranks == 1 or "RANK" in os.environ:
        return False
    if resources.launcher == "env":
        raise ParamsError(
            "resources.launcher: env takes RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT from "
            "the environment, where RANK is not set; local and slurm have the stage start ranks"
        )
    check_ranks(resources, params.device)
    finished = launch(module, sys.argv[1:], store=store(), **resources.of_ranks)
    trained.set()
    finish_training(Path(finished), started_by)
    return True


def finish(state: TrainingState, trained: Event) -> None:
    """End a training whose outs are written, or let the process that started this rank do it."""
    if is_followed():
        leave_finished(str(state.folder))
    else:
        trained.set()
        state.finish()
