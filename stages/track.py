"""Record the experiment as one MLflow run, found again by its fingerprint."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config.params import load_params
from pipeline.errors import reported
from pipeline.files import read_object
from pipeline.references.tables import line
from pipeline.references.trained import Mine
from pipeline.references.trained import reported as trained
from pipeline.table import shown
from pipeline.tracking.logged_model import MOST_BYTES, Checkpoint, Logged, checkpoint_at, is_wanted
from pipeline.tracking.mlflow import track
from pipeline.tracking.record import Record, make_record, zero_shot_points
from stages import run


@reported
def main(artifacts: Path, reports: Path) -> None:
    """Bring the experiment's MLflow run up to date with ARTIFACTS and REPORTS."""
    params = load_params()
    sets = {
        name: read_object(artifacts / "zero_shot" / f"{name}.json", "protocols")["protocols"]
        for name in params.zero_shot.names
    }
    record = with_published(
        make_record(params, artifacts, reports), sets, trained(reports / "results.json")
    )
    tracking, found = params.tracking, checkpoint_at(artifacts / "checkpoint", params)
    tracked = track(
        record,
        uri=tracking.uri,
        experiment=tracking.experiment,
        checkpoint=found if is_wanted(tracking.log_model, found.num_bytes) else None,
    )
    said = (
        f"{'created' if tracked.created else 'updated'} run {tracked.name} ({tracked.run_id}) "
        f"in experiment {tracked.experiment} at {tracked.uri}"
    )
    print(shown(said), file=sys.stderr)
    print(model_line(tracked.model, found, tracking.log_model), file=sys.stderr)


def model_line(model: Logged | None, checkpoint: Checkpoint, setting: str) -> str:
    """What became of the checkpoint, and how large it is."""
    if model is None:
        limit = f", up to {MOST_BYTES / 1e6:g} MB" if setting == "auto" else ""
        asked = f"tracking.log_model is {setting}{limit}"
        return f"no model logged: {asked}; the checkpoint has {checkpoint.size}"
    what = "logged" if model.new else "was there"
    return f"models:/{model.model_id} {what}, a checkpoint of {checkpoint.size}"


def with_published(
    record: Record, sets: Mapping[str, Mapping[str, Any]], mine: Sequence[Mine]
) -> Record:
    """The record with the figures of zero-shot sets; and published ones beside ours as tags."""
    tags = {f"references/{each.key}": each.line for each in mine}
    tags |= {
        f"zero_shot/{name}/{protocol}": line(result)
        for name, by_protocol in sets.items()
        for protocol, result in by_protocol.items()
    }
    points = [*record.points, *zero_shot_points(sets)]
    return replace(record, tags=record.tags | tags, points=points)


if __name__ == "__main__":
    run(main)
