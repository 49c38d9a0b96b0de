"""`sedd plan`: a table from params.yaml or a recipe, and what is missing for one."""

import shutil
from pathlib import Path

import pytest
import yaml
from tiny_project import PROJECT

from pipeline.config.edits import edit_yaml

OWT = ("--preset", "owt-small", "--tokens", 9_040_000_000)


@pytest.fixture(autouse=True)
def project(elsewhere):
    shutil.copy(PROJECT / "params.yaml", elsewhere)
    return elsewhere


def test_a_recipe_on_eight_cards(sedd):
    result = sedd("plan", *OWT, "--gigabytes", 38, "--gpus", 8)
    assert result.exit_code == 0, result.output
    first, header, *rows = result.stdout.splitlines()
    assert first.startswith("169,627,218 parameters on 8 x h100; training takes ")
    assert header.split() == ["stage", "takes", "leaves", "on", "disk", "by"]
    assert [row.split("  ")[0] for row in rows] == [
        *("pack", "train", "baseline", "evaluate"),
        *("sample, all step counts", "score, all step counts"),
    ]
    assert "1.8 to 2.5 days" in rows[1]


def test_what_does_not_fit_says_what_would(sedd):
    assert sedd("preset", "owt-large").exit_code == 0
    edit_yaml(Path("params.yaml"), {"train.accumulate": 1})
    result = sedd("plan", "--tokens", 9_040_000_000)
    assert result.exit_code == 1
    assert "error: training does not fit: raise train.accumulate (now 1)" in result.stderr


def test_what_does_not_fit_may_when_it_is_divided(sedd):
    assert sedd("preset", "owt-large").exit_code == 0
    edit_yaml(Path("params.yaml"), {"train.batch_size": 64, "model.num_blocks": 500})
    options = ("plan", "--tokens", 9_040_000_000, "--gpus", 64)
    result = sedd(*options)
    assert result.exit_code == 1
    assert "have several GPUs divide weights (resources.strategy: fsdp)" in result.stderr
    edit_yaml(Path("params.yaml"), {"resources.strategy": "fsdp"})
    result = sedd(*options)
    assert result.exit_code == 0, result.output
    assert "80 with fsdp, calculated" in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((*OWT, "--gpu", "abacus"), "--gpu must be one of a100, h100, h200 (got abacus)"),
        ((*OWT, "--gpus", 0), "--gpus must be from 1 to 512 (got 0)"),
        ((*OWT, "--gpus", 3), "--gpus must be a power of two, as ranks are (got 3)"),
        ((*OWT, "--gpus", 1000), "--gpus must be from 1 to 512 (got 1000)"),
        ((*OWT, "--gigabytes", -1), "--gigabytes must be above 0 (got -1.0)"),
        ((*OWT[:3], -1), "--tokens must be at least 1 (got -1)"),
        (("--preset", "owt-tiny"), "preset owt-tiny: there is none; there are "),
        (OWT[:2], "--tokens: how many there are is not known: artifacts/packed/meta.json is miss"),
        (("--tokens", 9), "artifacts/packed/meta.json is missing, and only the text has its char"),
    ],
)
def test_what_is_missing_is_said(refusal, options, said):
    assert refusal("plan", *options).startswith(said)


def test_embedding_diffusion_has_none(refusal, project):
    path = project / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"method": "embedding"}))
    assert refusal("plan", "--tokens", 9) == "method: a plan is made for sedd alone (got embedding)"
