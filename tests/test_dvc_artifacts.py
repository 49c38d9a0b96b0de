"""`artifacts:` of dvc.yaml: a second clone gets a model by its name, and by a tag of GTO's."""

from pathlib import Path

import pytest
import yaml
from tiny_clone import run
from tiny_project import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
DECLARED = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["artifacts"]


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A clone whose stages only name what they write, pushed and tagged."""
    folder = tmp_path / "first"
    folder.mkdir()
    stages = {
        name: {
            "cmd": f"mkdir -p {each['path']} && echo {name} > {each['path']}/weights",
            "outs": [each["path"]],
        }
        for name, each in DECLARED.items()
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages, "artifacts": DECLARED}))
    for command in (
        "git init -q",
        "git config user.email a@example.org",
        "git config user.name A",
        "dvc init -q",
        "dvc repro",
        f"dvc remote add -d store {tmp_path / 'remote'}",
        "dvc push",
        "git add -A",
        "git commit -q -m results",
        "git tag -a -m first model@v1.0.0",
    ):
        run(folder, *command.split())
    return folder


def test_a_second_clone_gets_models_by_name_and_tag(first, tmp_path):
    run(tmp_path, "git", "clone", "-q", str(first), "second")
    second = tmp_path / "second"
    run(second, "dvc", "artifacts", "get", ".", "model", "--rev", "v1.0.0", "-o", "got")
    assert (second / "got/weights").read_text() == "model\n"
    run(second, "dvc", "artifacts", "get", str(first), "model", "-o", "newest")
    assert (second / "newest/weights").read_text() == "model\n"
    # One without a version is not there yet.
    get = ("dvc", "artifacts", "get", ".", "baseline", "-o", "beside")
    assert "Unable to find artifact 'baseline'" in run(second, *get, status=1)


def test_what_is_declared_is_what_stages_write():
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    outs = {str(out) for stage in stages.values() for out in stage.get("outs", [])}
    assert {each["path"] for each in DECLARED.values()} <= outs
    assert all(each.keys() == {"path", "type", "desc", "labels"} for each in DECLARED.values())
