"""Folders that appear whole."""

import pytest

from pipeline.oxen.folders import in_place_of


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "data"
    with in_place_of(target) as folder:
        (folder / "one").write_text("1")
        assert not target.exists()
    (tmp_path / "deep" / ".data.1.partial").mkdir()
    with pytest.raises(ZeroDivisionError), in_place_of(target, replace=True) as folder:
        (folder / "two").write_text(str(1 // 0))
    assert [path.name for path in target.parent.iterdir()] == ["data"]
    assert [path.name for path in target.iterdir()] == ["one"]
    with in_place_of(target, replace=True) as folder:
        (folder / "two").write_text("2")
    assert [path.name for path in target.iterdir()] == ["two"]
