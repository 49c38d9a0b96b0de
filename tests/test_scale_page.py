"""docs/scale.md: its blocks parse, its shell is sound, commands and keys are the project's."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tiny_clone import make_clone, run
from tiny_project import PROJECT, shipped_params

PAGE = (PROJECT / "docs/scale.md").read_text()
BLOCKS = re.findall(r"```(sh|yaml)\n(.*?)```", PAGE, re.DOTALL)
MANIFESTS = [list(yaml.safe_load_all(text)) for kind, text in BLOCKS if kind == "yaml"]
SCRIPTS = [text for kind, text in BLOCKS if kind == "sh"]
[RANK] = [text for text in SCRIPTS if '"$RANK" = 0' in text]
TRAIN = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]["train"]["cmd"]


def shell_in(value):
    """Shell that stands in a manifest: SkyPilot's, or an argument of sh -c."""
    if isinstance(value, dict):
        if isinstance(value.get("run"), str):
            yield value["run"]
        for each in value.values():
            yield from shell_in(each)
    elif isinstance(value, list):
        for before, each in zip([None, *value], value, strict=False):
            if before == "-c":
                yield each
            yield from shell_in(each)


SHELL = [*SCRIPTS, *(text for manifest in MANIFESTS for text in shell_in(manifest))]


LINTERS = {
    # SC1091: the environment is not here.
    "shellcheck": (["--shell=sh", "--exclude=SC1091", "-"], SHELL),
    "yamllint": (
        ["--strict", "-d", "{extends: default, rules: {line-length: {max: 100}}}", "-"],
        ["---\n" + text for kind, text in BLOCKS if kind == "yaml"],
    ),
}


def test_shell_parses():
    for script in SHELL:
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("linter", LINTERS)
def test_blocks_are_sound(linter):
    if not shutil.which(linter):
        pytest.skip(f"{linter} is not installed: python install.py dev")
    options, texts = LINTERS[linter]
    for text in texts:
        checked = subprocess.run(
            [linter, *options], input=text, text=True, capture_output=True, check=False
        )
        assert checked.returncode == 0, checked.stdout


def test_manifests_are_whole_and_named():
    for manifest in MANIFESTS:
        assert [each for each in manifest if each.get("kind") or each.get("run")] == manifest
    kinds = [each.get("kind") for manifest in MANIFESTS for each in manifest]
    assert kinds == ["PyTorchJob", "RayCluster", None]
    job = MANIFESTS[0][0]["spec"]["pytorchReplicaSpecs"]
    assert {kind: spec["replicas"] for kind, spec in job.items()} == {"Master": 1, "Worker": 7}
    for spec in job.values():
        # The operator looks for a container of this name.
        assert [each["name"] for each in spec["template"]["spec"]["containers"]] == ["pytorch"]


def test_commands_and_keys_are_the_projects():
    said = " ".join(PAGE.replace("\\\n", " ").split())
    assert said.count(" ".join(TRAIN.split())) == 2
    keys = re.findall(r"-S ([\w.]+)=", PAGE)
    assert len(keys) > 5
    for key in keys:
        value = shipped_params()
        for name in key.split("."):
            value = value[name]
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.partition("```")[0], re.MULTILINE)
    assert rows == [*shipped_params()["resources"]]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_script_of_ranks_trains_under_torchrun(tmp_path):
    ranks = {"launcher": "env", "processes": 2, "timeout_seconds": 60}
    changes = {f"resources.{key}": value for key, value in ranks.items()}
    accumulate = {"train.accumulate": 2, "baseline.accumulate": 2}
    alone = make_clone(tmp_path / "alone", accumulate)
    run(alone, "dvc", "repro", "train")
    clone = make_clone(tmp_path / "clone", accumulate | changes)
    run(clone, "dvc", "repro", "pack")
    script = RANK.replace("/project", str(clone)).replace(". .venv/bin/activate\n", "")
    (clone / "rank.sh").write_text(script)
    started = "torchrun --nnodes=1 --nproc-per-node=2 --no-python sh rank.sh"
    assert started in PAGE.replace("per-node=8", "per-node=2")
    run(clone, *started.split())
    weights = [Path(each, "artifacts/checkpoint/model.safetensors") for each in (alone, clone)]
    one, two = (path.read_bytes() for path in weights)
    assert one == two
