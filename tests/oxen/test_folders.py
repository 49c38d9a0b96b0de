"""Folders that appear whole."""

import os
import subprocess

import pytest

from pipeline.files import scratch_folder, write_json
from pipeline.oxen.folders import in_place_of


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "[d]ata"
    (tmp_path / "deep" / ".[d]ata.1.partial").mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), in_place_of(target) as folder:
        (folder / "two").write_text(str(1 // 0))
    assert list(target.parent.iterdir()) == []
    with in_place_of(target) as folder:
        (folder / "one").write_text("1")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["[d]ata"]
    assert [path.name for path in target.iterdir()] == ["one"]


def test_what_killed_processes_left_is_removed(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(here))
    ended = subprocess.Popen(["true"])
    ended.wait()
    with scratch_folder() as mine, scratch_folder(here / "data") as beside:
        for folder in (mine, beside):
            killed = folder.with_name(folder.name.replace(str(os.getpid()), str(ended.pid)))
            (killed / "deep").mkdir(parents=True)
        with scratch_folder(), scratch_folder(here / "data"):
            pass
        assert set(here.iterdir()) == {mine, beside}
    assert not list(here.iterdir())


def test_partial_files_of_killed_processes_are_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    path = tmp_path / "[a].json"
    killed, alive = (tmp_path / f".[a].json.{pid}.partial" for pid in (ended.pid, os.getppid()))
    for left in (killed, alive):
        left.touch()
    write_json(path, 1)
    assert {left for left in tmp_path.iterdir() if left.is_file()} == {path, alive}
