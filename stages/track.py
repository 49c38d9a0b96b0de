"""Record the experiment as one MLflow run, found again by its fingerprint."""

import sys
from pathlib import Path

import typer

from pipeline.config.params import load_params
from pipeline.errors import reported
from pipeline.table import shown
from pipeline.tracking.mlflow import track
from pipeline.tracking.record import make_record


@reported
def main(artifacts: Path, reports: Path) -> None:
    """Bring the experiment's MLflow run up to date with ARTIFACTS and REPORTS."""
    params = load_params()
    record = make_record(params, artifacts, reports)
    tracked = track(record, uri=params.tracking.uri, experiment=params.tracking.experiment)
    line = (
        f"{'created' if tracked.created else 'updated'} run {tracked.name} ({tracked.run_id}) "
        f"in experiment {tracked.experiment} at {tracked.uri}"
    )
    print(shown(line), file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
