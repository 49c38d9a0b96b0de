"""Check params.yaml before any other stage runs, or DVC stumbles over a wrong value itself."""

import re
from pathlib import Path

from pipeline.config.identity import method_in_use, swept
from pipeline.config.params import Params, load_params
from pipeline.environment import check_extra
from pipeline.errors import ParamsError, reported
from pipeline.files import check_folder, write_json
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
    check_pinned(params)
    check_folder("resources.store", params.resources.store)
    if params.score.mauve_seeds:
        check_extra("mauve", "score.mauve_seeds")
    if params.resources.pack == "ray":
        check_extra("ray", "resources.pack: ray")
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


def check_pinned(params: Params) -> None:
    """Raise ParamsError for a model that was never pinned: its stage would only say it hours later.

    That its files are those that were pinned, the stage finds.
    """
    scorer, sets = params.score.scorer, params.zero_shot.names
    models = {
        "train.init": (params.train.init, params.train.init_revision),
        "score.scorer": (None if scorer == "baseline" else scorer, params.score.scorer_revision),
        "zero_shot.against": (
            params.zero_shot.against if sets else None, params.zero_shot.against_revision
        ),
    }  # fmt: skip
    mistakes = [
        f"{key}_revision: {model} is not pinned: `sedd pin` writes its revision"
        for key, (model, revision) in models.items()
        if model is not None and revision is None
    ]
    if mistakes:
        raise ParamsError(*mistakes)


if __name__ == "__main__":
    run(main)
