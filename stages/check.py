"""Check params.yaml before any other stage runs, or DVC stumbles over a wrong value itself."""

from pathlib import Path

import typer

from pipeline.config.params import load_params
from pipeline.errors import reported
from pipeline.files import write_json


@reported
def main(checked: Path) -> None:
    """Write CHECKED, the same whatever the values, when all of them are allowed."""
    load_params()
    write_json(checked, "every value of params.yaml is allowed")


if __name__ == "__main__":
    typer.run(main)
