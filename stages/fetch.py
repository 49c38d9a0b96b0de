"""Fetch the dataset's files from their Oxen repository at the pinned revision."""

from pathlib import Path

from pipeline.config.params import load_params
from pipeline.data.labels import label_names
from pipeline.errors import reported
from pipeline.files import locked
from pipeline.oxen.fetching import fetch, is_fetched
from pipeline.table import shown
from stages import run


@reported
def main(data: Path, provenance: Path) -> None:
    """Write the files into the folder DATA and where they came from into PROVENANCE."""
    params = load_params()
    with locked(data):
        if is_fetched(params.data, data, provenance):
            origin = f"{params.data.repo} at {params.data.revision}"
            print(shown(f"nothing to fetch: {data} has the files of {origin}"))
            if params.data.labels:
                label_names(data, params.data)
        else:
            fetch(params.data, params.oxen, data, provenance)


if __name__ == "__main__":
    run(main)
