"""Check params.yaml before any other stage runs, or DVC stumbles over a wrong value itself."""

from pathlib import Path

import typer

from pipeline.config.identity import method_in_use
from pipeline.config.params import load_params
from pipeline.errors import reported
from pipeline.files import write_json


@reported
def main(checked: Path, method: Path) -> None:
    """Write METHOD, what is in use of its values, and CHECKED, the same whatever they are.

    DVC's own templates could not leave out what belongs to another method.
    """
    params = load_params()
    write_json(method, method_in_use(params))
    write_json(checked, "every value of params.yaml is allowed")


if __name__ == "__main__":
    typer.run(main)
