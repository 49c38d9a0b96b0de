"""Fetch the file of one zero-shot set from its Oxen repository at the pinned revision."""

from pathlib import Path

from pipeline.config.params import load_params
from pipeline.errors import reported
from pipeline.files import locked
from pipeline.zeroshot.fetching import fetch_set
from stages import run


@reported
def main(name: str, out: Path) -> None:
    """Write the file of the set NAME into the folder OUT."""
    params = load_params()
    with locked(out):
        fetch_set(name, params.zero_shot.sets[name], params.oxen, out)


if __name__ == "__main__":
    run(main)
