"""The check stage: what it hands on of params.yaml, and the folder of sweeps that it keeps tidy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_project import PROJECT, write_params

from stages.check import main

ASKED = Path("artifacts/sweep/asked.json")
SETS = Path("artifacts/zero_shot/sets-asked.json")


def check() -> None:
    main(Path("artifacts/checked.json"), Path("artifacts/method.json"), ASKED, SETS)


def test_sweeps_that_are_not_asked_for_any_more_are_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["1", "16", "temperature-0.8", "temperature-1"]
    write_params(tmp_path, {"sweep": [1, 16], "temperatures": [0.8, 1]})
    check()
    assert json.loads(ASKED.read_text()) == names
    files = {
        ASKED.parent / folder / f"{name}{ending}"
        for name in names
        for folder, ending in (
            ("samples", ".jsonl"), ("samples", ".trace.json"), ("samples", ".timing.json"),
            ("scores", ".json"),
        )
    }  # fmt: skip
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    check()
    assert set(ASKED.parent.glob("*/*")) == files
    write_params(tmp_path, {"sweep": [16], "temperatures": [1, 2]})
    check()
    held = {path for path in files if path.name.startswith(("16.", "temperature-1."))}
    assert set(ASKED.parent.glob("*/*")) == held
    write_params(tmp_path, {"sweep": []})
    check()
    assert json.loads(ASKED.read_text()) == []
    assert not set(ASKED.parent.glob("*/*"))


def test_a_model_that_was_never_pinned_is_refused_before_anything_runs(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    models = {"train.init": "given", "score.scorer": "gpt2-large", "zero_shot.against": "gpt2"}
    write_params(tmp_path, models)
    with pytest.raises(SystemExit):
        check()
    assert capsys.readouterr().err == (
        "error: train.init_revision: given is not pinned: `sedd pin` writes its revision\n"
        "score.scorer_revision: gpt2-large is not pinned: `sedd pin` writes its revision\n"
    )
    assert not ASKED.exists()
    write_params(
        tmp_path, models | dict.fromkeys(("train.init_revision", "score.scorer_revision"), "a" * 40)
    )
    check()


def test_a_store_that_cannot_be_written_is_said_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {"resources.store": "given/store"})
    Path("given").write_text("a file")
    with pytest.raises(SystemExit):
        check()
    said = f"error: resources.store: {Path('given').resolve()} is no folder that can be written"
    assert capsys.readouterr().err.startswith(said)
    assert not ASKED.exists()
    Path("given").unlink()
    check()


def test_a_sampler_that_the_method_has_not_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {"method": "embedding", "sample.predictor": "cached"})
    with pytest.raises(SystemExit) as ended:
        check()
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "error: params.yaml: sample.predictor must be auto, ddpm, ddim or draw with method "
        "embedding (got cached)\n"
    )
    assert not list(tmp_path.glob("artifacts/**/*.json"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"score.mauve_seeds": [25]}, "score.mauve_seeds: the package mauve is not installed"),
        ({"resources.pack": "ray"}, "resources.pack: ray: the package ray is not installed"),
    ],
)
def test_an_extra_that_is_asked_for_and_not_here_is_said_before_all_else(
    tmp_path, monkeypatch, capsys, changes, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.environment.find_spec", lambda name: None)
    write_params(tmp_path, changes)
    with pytest.raises(SystemExit):
        check()
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("artifacts/**/*.json"))


def test_zero_shot_sets_that_are_not_asked_for_any_more_are_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = {"repo": "r", "revision": "r", "file": "f", "column": "c", "of": None, "split": None}
    keys["detokenizer"] = "none"
    sets = {name: {**keys, "protocols": ["exact"]} for name in ("one", "two")}
    declared = {"zero_shot.sets": sets}
    write_params(tmp_path, declared | {"zero_shot.names": ["one", "two"]})
    check()
    for name in ("one", "two"):
        (SETS.parent / f"{name}.json").touch()
    write_params(tmp_path, declared | {"zero_shot.names": ["two"]})
    check()
    assert {path.name for path in SETS.parent.iterdir()} == {"two.json", SETS.name}
    assert json.loads(SETS.read_text()) == ["two"]


def test_no_folder_for_temporary_files_is_said_before_anything_is_imported(tiny):
    """As where the disk is full: `dill`, where it is installed, would end with a traceback."""
    script = """
import runpy, tempfile
tempfile._candidate_tempdir_list = lambda: ["nowhere"]
runpy.run_module("stages.check", run_name="__main__")
"""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(
        "error: no disk space left, or no folder, for temporary files: No usable"
    )
    assert "nowhere" in line
