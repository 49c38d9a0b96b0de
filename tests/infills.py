"""A logged model beside `sedd infill`."""

import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.tracking.logged_model import Checkpoint

TEMPLATE, STEPS, SEED, NUM = "a[2]c[?]", 4, 3, 3


def infilled(checkpoint: Checkpoint) -> list[str]:
    """What `sedd infill` prints."""
    options = {"template": TEMPLATE, "steps": STEPS, "seed": SEED, "num": NUM}
    typed = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    result = CliRunner().invoke(app, ["infill", "--model", str(checkpoint.folder), *typed])
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


def check_predictions(model_uri: str, tracking_uri: str, checkpoint: Checkpoint) -> None:
    """Assert that the model at `model_uri` says its signature, and the same."""
    from mlflow.pyfunc import load_model

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
        patch.setattr(sys, "path", [*sys.path])  # MLflow puts the model's own code there
        model = load_model(model_uri)
    signature = model.metadata.signature
    assert signature.inputs.input_names() == ["template"]
    assert signature.outputs.input_names() == ["text"]
    assert {"steps", "seed", "temperature"} <= {each.name for each in signature.params}
    frame = pd.DataFrame({"template": [TEMPLATE] * NUM})
    found = model.predict(frame, params={"steps": STEPS, "seed": SEED})
    assert list(found["text"]) == infilled(checkpoint)
