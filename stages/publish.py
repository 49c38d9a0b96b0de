"""Commit the samples, results and provenance of this experiment to an Oxen repository."""

from pathlib import Path

import typer

from pipeline.config.params import load_params
from pipeline.errors import reported
from pipeline.publishing.experiment import publish


@reported
def main(artifacts: Path, reports: Path) -> None:
    """Publish ARTIFACTS and REPORTS to `publish.repo`, once for each experiment."""
    publish(load_params(), artifacts, reports)


if __name__ == "__main__":
    typer.run(main)
