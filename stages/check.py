"""Check params.yaml before any other stage runs, or DVC stumbles over a wrong value itself."""

import re
from pathlib import Path

from pipeline.config.identity import method_in_use, swept
from pipeline.config.params import load_params
from pipeline.environment import check_extra
from pipeline.errors import reported
from pipeline.files import write_json
from stages import run

ENDING = re.compile(r"(\.trace|\.timing)?\.jsonl?$")


@reported
def main(checked: Path, method: Path, asked: Path, zero_shot: Path) -> None:
    """Write METHOD, what is in use of its values, and CHECKED, the same whatever they are.

    DVC's own templates could not leave out what belongs to another method. The folders of ASKED,
    which lists the sweeps, and of ZERO_SHOT, which lists its sets, are what later stages depend on:
    what they hold of others is removed.
    """
    params = load_params()
    if params.score.mauve_seeds:
        check_extra("mauve", "score.mauve_seeds")
    write_json(method, method_in_use(params))
    names = swept(params)
    for path in asked.parent.glob("*/*"):
        if ENDING.sub("", path.name) not in names:
            path.unlink()
    write_json(asked, names)
    sets = params.zero_shot.names
    for path in zero_shot.parent.glob("*.json"):
        if path.stem not in sets and path != zero_shot:
            path.unlink()
    write_json(zero_shot, sets)
    write_json(checked, "every value of params.yaml is allowed")


if __name__ == "__main__":
    run(main)
