"""Report: metrics.json for DVC, all figures, and one HTML page that opens offline."""

from pathlib import Path

from pipeline.config.params import load_params
from pipeline.errors import reported
from pipeline.files import whole, write_json
from pipeline.report.inputs import read_experiment
from pipeline.report.metrics import headlines, results, write_by_steps
from pipeline.report.page import render
from stages import run


@reported
def main(artifacts: Path, reports: Path) -> None:
    """Gather what the other stages wrote in ARTIFACTS and REPORTS; write the report to REPORTS."""
    params = load_params()
    experiment = read_experiment(
        artifacts,
        reports,
        steps=params.steps,
        sweep=params.sweep,
        temperatures=params.temperatures,
    )
    page = render(experiment, steps=params.steps, num_samples=params.report.num_samples)
    write_json(reports / "metrics.json", headlines(experiment, params.steps))
    write_json(reports / "results.json", results(experiment, params.steps))
    write_by_steps(reports / "by_steps.csv", experiment)
    with whole(reports / "index.html") as partial:
        partial.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run(main)
