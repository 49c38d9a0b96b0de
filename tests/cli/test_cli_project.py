import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from pipeline.cli import app
from pipeline.config.edits import edit_yaml

COMMANDS = ["sample", "infill", "perturb", "loss", "shift", "compare", "ui", "check", "clean"]
COMMANDS += ["pin", "preset", "plan", "publish", "verify", "tune", "login", "doctor"]
COMMANDS += ["zero-shot", "references", "export", "import", "lm-eval"]
SLOW = ["torch", "transformers", "mlflow", "pyarrow", "numpy", "oxen", "matplotlib", "tokenizers"]
SLOW += ["yaml", "tomlkit", "urllib3", "safetensors", "huggingface_hub", "dvc", "jinja2", "tqdm"]


def test_entry_point():
    [entry] = entry_points(group="console_scripts", name="sedd")
    assert entry.load() is app


@pytest.mark.parametrize(
    ("commands", "slow"),
    # A command's own help has typer look up its options' types in pydantic.
    [([[]], [*SLOW, "pydantic"]), ([[name] for name in COMMANDS], SLOW)],
    ids=["sedd", "commands"],
)
def test_help_imports_nothing_slow(commands, slow):
    script = f"""
import sys
from typer.testing import CliRunner
from pipeline.cli import app
for command in {commands}:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.output
print(*[name for name in {slow} if name in sys.modules])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_command_is_listed_with_what_it_does(sedd):
    lines = sedd("--help").stdout.split("Commands:")[1].strip().splitlines()
    listed = dict(line.split(maxsplit=1) for line in lines)
    assert list(listed) == COMMANDS
    assert all(listed.values())


def test_check_passes(sedd, project, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert sedd("check").exit_code == 0


def test_check_lists_every_mistake(sedd, project):
    text = (project / "params.yaml").read_text()
    text = text.replace("steps: 128 ", "steps: 0 ").replace("[1, 4, 16, 64]", "[1, 1]")
    (project / "params.yaml").write_text(text)
    result = sedd("check")
    assert result.exit_code == 1
    assert "params.yaml: steps: " in result.stderr
    assert "(got 0)" in result.stderr
    assert "params.yaml: sweep: " in result.stderr


def test_check_names_the_other_python(refusal, project, monkeypatch):
    other = project / "bin/python"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho /somewhere\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")
    message = refusal("check")
    assert f"DVC would start its stages with {other}" in message
    assert sys.prefix in message


def test_check_wants_a_python(refusal, project, monkeypatch):
    monkeypatch.setenv("PATH", str(project))
    assert "no `python` in PATH" in refusal("check")


def test_check_accepts_another_way_to_this_python(sedd, project, monkeypatch):
    link = project / "bin/python"
    link.parent.mkdir()
    link.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    link.chmod(0o755)
    monkeypatch.setenv("PATH", f"{link.parent}:{os.environ['PATH']}")
    assert sedd("check").exit_code == 0


TRAIN, BASELINE, ALONE = (
    f"{kind}-{key * 16}" for kind, key in (("train", "a"), ("baseline", "b"), ("train", "c"))
)


@pytest.fixture
def unfinished(project):
    """Two unfinished runs, and a lock without a run."""
    train = project / ".store/train"
    for name in (TRAIN, BASELINE):
        (train / name).mkdir(parents=True)
        (train / f"{name}.lock").touch()
    torch.save({"step": 300, "weights": torch.zeros(500_000)}, train / TRAIN / "state.pt")
    (train / BASELINE / "state.pt").write_bytes(b"torn")
    (train / f"{ALONE}.lock").touch()
    return train


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_clean_lists_and_touches_nothing(sedd, unfinished):
    before = names(unfinished)
    result = sedd("clean")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[1] for line in lines[:3]] == [
        str(unfinished / name) for name in (BASELINE, TRAIN, ALONE)
    ]
    assert re.search(r"  2\.0 MB  \d{4}-\d\d-\d\d \d\d:\d\d$", lines[1])
    assert "--yes" in lines[3]
    assert names(unfinished) == before


def test_clean_frees(sedd, unfinished):
    result = sedd("clean", "--yes")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["freed"] * 3
    assert names(unfinished) == []
    assert "nothing is left" in sedd("clean").stdout


def test_clean_knows_of_units_too(sedd, project):
    from pipeline.scale.unfinished import unfinished_units

    with unfinished_units("sample", {}) as (units, work):
        units.in_order(1, lambda index: {"tokens": torch.zeros(index)})
        assert sedd("clean", "--yes").stdout.startswith(f"in use, kept  {work.folder}  ")
    assert sedd("clean", "--yes").stdout.startswith(f"freed         {work.folder}  ")
    assert names(project / ".store/units") == []


def test_clean_of_another_store(sedd, project, tmp_path):
    from pipeline.scale.unfinished import unfinished_units

    place = tmp_path / "scratch"
    theirs = [place / "train" / name for name in ("imagenet", "part-00", "data.parquet")]
    for path in theirs:
        path.mkdir(parents=True)
    edit_yaml(project / "params.yaml", {"resources.store": str(place)})
    with unfinished_units("sample", {}, within=str(place)) as (units, work):
        units.in_order(1, lambda index: {"tokens": torch.zeros(index)})
    assert work.folder.parent == place / "units"
    assert sedd("clean", "--yes").stdout.startswith(f"freed         {work.folder}  ")
    assert names(place / "units") == []
    assert all(path.exists() for path in theirs)


def test_clean_knows_of_what_was_begun_before_the_store_was_named(sedd, unfinished, tmp_path):
    edit_yaml(Path("params.yaml"), {"resources.store": str(tmp_path / "scratch")})
    assert sedd("clean", "--yes").stdout.count("freed") == 3
    assert names(unfinished) == []


def test_clean_leaves_what_a_trainer_holds(sedd, unfinished):
    with FileLock(unfinished / f"{TRAIN}.lock"):
        for options in ([], ["--yes"]):
            lines = sedd("clean", *options).stdout.splitlines()
            assert lines[1].startswith("in use, kept")
        assert names(unfinished) == [TRAIN, f"{TRAIN}.lock"]
    sedd("clean", "--yes")
    assert names(unfinished) == []


def test_clean_agrees_with_the_trainers_lock(sedd, project):
    from pipeline.training.state import training_state

    with training_state("train", {"lr": 1}) as state:
        state.save({"step": 7})
        lines = sedd("clean", "--yes").stdout.splitlines()
        assert lines[0].startswith(f"in use, kept  {state.folder}")
        assert state.path.exists()
    assert "freed" in sedd("clean", "--yes").stdout
    assert names(state.folder.parent) == []


def test_clean_without_a_store(sedd, project):
    assert "nothing is left" in sedd("clean").stdout
    assert not (project / ".store").exists()


def test_compare_without_runs(sedd, project):
    result = sedd("compare")
    assert result.exit_code == 0
    assert "no runs yet" in result.stdout


def test_compare_asks_for_the_projects_runs(sedd, project, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "pipeline.tracking.compare.runs", lambda *arguments: asked.append(arguments) or []
    )
    sedd("compare")
    assert asked == [("local", "baby-names")]


def test_ui_starts_mlflow(sedd, project, monkeypatch):
    started = []
    monkeypatch.setattr("pipeline.tracking.ui.main", lambda: started.append(True))
    assert sedd("ui").exit_code == 0
    assert started == [True]
