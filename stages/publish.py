"""Commit the samples, results and provenance of this experiment to an Oxen repository."""

from pathlib import Path

from pipeline.config.params import load_params
from pipeline.errors import reported
from pipeline.publishing.experiment import provenance_of, publish
from pipeline.publishing.exporting import publish_export
from stages import run


@reported
def main(artifacts: Path, reports: Path) -> None:
    """Publish ARTIFACTS and REPORTS to `publish.repo`, once for each experiment.

    The model goes to `publish.huggingface` too, where that is given.
    """
    params = load_params()
    publish(params, artifacts, reports)
    if params.publish.huggingface is not None:
        provenance = provenance_of(params, artifacts, reports)
        publish_export(params, artifacts / "checkpoint", provenance)


if __name__ == "__main__":
    run(main)
