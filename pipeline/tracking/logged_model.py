"""A checkpoint as MLflow's logged model, for `mlflow.pyfunc`: templates in, infilled texts out.

One an experiment of MLflow, of the run that came first: others of the same checkpoint link it. It
brings this library's code along, and so needs the packages of its requirements and nothing else.
"""

import shutil
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.config.params import Params
from pipeline.errors import DataError
from pipeline.files import folder_revision, scratch_folder

NAME = "model"
LOADER = "pipeline.cli.pyfunc"
"""What MLflow imports to load it: from the code that lies beside the checkpoint."""
PACKAGES = (
    *("mlflow", "pandas", "torch", "safetensors", "tokenizers"),
    *("pydantic", "pyyaml", "typer", "tqdm"),
)
"""Those that loading and infilling import."""
MOST_BYTES = 200 * 10**6
"""Of a checkpoint that `auto` logs."""
TYPES = {int: "long", float: "double", str: "string"}
REVISION = "checkpoint_revision"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint to log.

    Attributes:
        folder: where it is.
        revision: SHA-256 over its files; weights alone may go with another configuration.
        num_bytes: their size.
        defaults: parameters of `predict`, and what those are that a call leaves out.
    """

    folder: Path
    revision: str
    num_bytes: int
    defaults: dict[str, str | int | float]

    @property
    def size(self) -> str:
        """For a person."""
        return f"{self.num_bytes / 1e6:.1f} MB"


@dataclass(frozen=True)
class Logged:
    """The logged model of a checkpoint; `new` if it was not there before."""

    model_id: str
    new: bool


def checkpoint_at(folder: Path, params: Params) -> Checkpoint:
    """The checkpoint of an experiment, sampled by default as its samples are.

    Raises:
        DataError: there is none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: run dvc repro")
    sample = params.sample
    defaults = {
        "steps": params.steps,
        **sample.model_dump(include={"predictor", "temperature", "top_p"}),
        **asdict(sample.stepping),
    }
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Checkpoint(folder, folder_revision(folder), num_bytes, defaults)


def is_wanted(setting: str, num_bytes: int) -> bool:
    """Whether `tracking.log_model` has a checkpoint of this size logged."""
    return setting == "always" or (setting == "auto" and num_bytes <= MOST_BYTES)


def log_model(client: Any, run: Any, checkpoint: Checkpoint) -> Logged:
    """Link `checkpoint` to `run`; uploaded unless it is there. Safe to kill and to repeat."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    experiment_id, run_id = run.info.experiment_id, run.info.run_id
    found = client.search_logged_models(
        [experiment_id], f"tags.{REVISION} = '{checkpoint.revision}'", max_results=1
    )
    model = next(iter(found), None) or client.create_logged_model(
        experiment_id, NAME, run_id, {REVISION: checkpoint.revision, "size": checkpoint.size}
    )
    # One that a killed process left half uploaded is taken up again.
    new = model.status != LoggedModelStatus.READY
    if new:
        with scratch_folder() as folder:
            _save(folder, model, checkpoint)
            client.log_model_artifacts(model.model_id, str(folder / NAME))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = client.get_run(run_id).outputs.model_outputs
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return Logged(model.model_id, new)


def _save(folder: Path, model: Any, checkpoint: Checkpoint) -> None:
    """`checkpoint` in MLflow's layout, under NAME in `folder`."""
    library = Path(__file__).parents[1]
    code = folder / "code" / library.name
    shutil.copytree(library, code, ignore=shutil.ignore_patterns("__pycache__", "*.parquet"))
    with warnings.catch_warnings():
        # Of a type of MLflow's own, and of an example of input, which it advises.
        warnings.simplefilter("ignore", UserWarning)
        from mlflow import pyfunc
        from mlflow.models import Model

        pyfunc.save_model(
            folder / NAME,
            loader_module=LOADER,
            data_path=str(checkpoint.folder),
            code_paths=[str(code)],
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                run_id=model.source_run_id,
                model_id=model.model_id,
            ),
            signature=_signature(checkpoint.defaults),
            # Named, since MLflow would load the model in another process to see what it imports.
            pip_requirements=[f"{each}=={version(each).partition('+')[0]}" for each in PACKAGES],
        )


def _signature(defaults: dict[str, str | int | float]) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    params = [ParamSpec(key, TYPES[type(value)], value) for key, value in defaults.items()]
    # Another one each time.
    params.append(ParamSpec("seed", "long", None))
    return ModelSignature(
        inputs=Schema([ColSpec("string", "template")]),
        outputs=Schema([ColSpec("string", "text")]),
        params=ParamSchema(params),
    )
