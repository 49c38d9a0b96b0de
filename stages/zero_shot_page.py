"""Put one zero-shot set's figures beside the published ones that they may stand beside."""

from pathlib import Path

from pipeline.errors import reported
from pipeline.files import read_object, whole
from pipeline.zeroshot.page import render
from stages import run


@reported
def main(found: Path, out: Path) -> None:
    """Write the page OUT of FOUND, a set's figures."""
    page = render(read_object(found, "name", "protocols"))
    with whole(out) as partial:
        partial.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    run(main)
