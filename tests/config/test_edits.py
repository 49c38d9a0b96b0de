import re

import pytest
from dvc.utils.hydra import apply_overrides
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from tiny_project import PROJECT, changed, shipped_params

from pipeline.config.edits import edit_yaml, edited
from pipeline.config.identity import leaves
from pipeline.config.params import load_params
from pipeline.config.strict_yaml import parse
from pipeline.errors import PipelineError

SHIPPED = (PROJECT / "params.yaml").read_text()


LEAVES = sorted(key for key, value in leaves(shipped_params()) if not isinstance(value, list))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()
PATHS = st.from_regex(r"[a-z0-9._/-]{1,40}", fullmatch=True)
VALUES = NUMBERS | PATHS | TEXT


# Two copies of the shipped file are read for every example.
few = settings(max_examples=25, deadline=None)


@few
@given(st.sampled_from(LEAVES), VALUES)
@example("train.precision", "bfloat16")
@example("data.revision", "12345e67")
@example("data.revision", "a # b")
@example("data.revision", "1_000")
@example("data.revision", "010")
@example("data.revision", "2024-01-02")
@example("train.init", "")
def test_only_the_value_changes(key, value):
    new = edited(SHIPPED, {key: value})
    assert repr(YAML(typ="safe").load(new)) == repr(changed(shipped_params(), {key: value}))
    lines = zip(SHIPPED.splitlines(), new.splitlines(), strict=True)
    moved = [(old, now) for old, now in lines if old != now]
    assert len(moved) <= 1
    for old, now in moved:
        assert now.startswith(old[: old.index(":") + 2])
        assert now.endswith(old[old.index(" # ") :] if " # " in old else "")
    assert new.count("\n") == SHIPPED.count("\n")


@few
@given(st.dictionaries(st.sampled_from(LEAVES), VALUES, min_size=2, max_size=4))
def test_values_at_once_are_values_one_by_one(values):
    text = SHIPPED
    for key, value in values.items():
        text = edited(text, {key: value})
    assert edited(SHIPPED, values) == text


@few
@given(st.sampled_from(LEAVES), VALUES)
def test_the_values_that_are_there_change_nothing(key, value):
    once = edited(SHIPPED, {key: value})
    assert edited(once, {key: value}) == once
    assert edited(SHIPPED, {}) == SHIPPED


def test_there_and_back_is_the_same_file():
    there = {"train.precision": "bfloat16", "train.compile": True, "train.accumulate": 16}
    back = {"train.precision": "auto", "train.compile": False, "train.accumulate": 1}
    assert edited(edited(SHIPPED, there), back) == SHIPPED


def test_comments_keep_their_column_where_they_can():
    text = "a: 1    # one\nlonger: 22 # two\n"
    assert edited(text, {"a": 100, "longer": 4444}) == "a: 100  # one\nlonger: 4444 # two\n"


@given(st.binary(max_size=30), TEXT)
def test_any_text_is_edited_or_refused(garbage, value):
    try:
        text = garbage.decode()
        old = parse(text)
    except (UnicodeDecodeError, PipelineError):
        return
    key = next(iter(old), "a") if isinstance(old, dict) else "a"
    try:
        new = edited(text, {key: value})
    except PipelineError:
        return
    assert parse(new) == {**old, key: value}


@pytest.mark.parametrize(
    ("text", "values", "new"),
    [
        ("a: {b: 1, c: 2} # d\n", {"a.b": "x, y"}, "a: {b: 'x, y', c: 2} # d\n"),
        ("a:\n", {"a": 1}, "a: 1\n"),
        ("a:   # none\n", {"a": 1}, "a: 1 # none\n"),
        ("a: 'it''s'\r\nb: 2\r\n", {"a": "x"}, "a: x\r\nb: 2\r\n"),
        ("a: 1", {"a": None}, "a: null"),
        ('"a": 1\n', {"a": 2}, '"a": 2\n'),
        ("\ufeffa: 1\n", {"a": 2}, "\ufeffa: 2\n"),
        ("ü: é # ï\nb: 1\n", {"b": 2, "ü": "ö"}, "ü: ö # ï\nb: 2\n"),
        ("a: 1\n", {"a": "12e3"}, 'a: "12e3"\n'),
        ("a: 1\n", {"a": "0o17"}, 'a: "0o17"\n'),
        ("a: 1\n", {"a": 1e-7}, "a: 1.0e-07\n"),
    ],
)
def test_what_is_written(text, values, new):
    assert edited(text, values) == new


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("a: 1\n", "b", "b is not there"),
        ("a: 1\n", "a.b", "a.b is not there"),
        ("", "a", "a is not there"),
        ("- a\n", "a", "a is not there"),
        ("a: {b: 1}\n", "a", "a holds several values"),
        ("a: [1, 2]\n", "a", "a holds several values"),
        ("a: &x 1\nb: *x\n", "a", "line 1: a: & and * are not read here"),
        ("a: 1\na: 2\n", "a", "line 2: a: it is there twice"),
        ("a: |\n  text\nb: 1\n", "a", "a: cannot be changed where it stands"),
        ("{a}", "a", "a: cannot be changed where it stands"),
        ("a: [1\n", "a", "not valid YAML"),
    ],
)
def test_what_is_refused(text, key, message):
    with pytest.raises(PipelineError, match=re.escape(message)):
        edited(text, {key: 5})


def test_the_file_is_replaced_whole_and_keeps_its_mode_and_its_link(tmp_path):
    path, link = tmp_path / "params.yaml", tmp_path / "link.yaml"
    path.write_bytes(b"a: 1  # one\r\nb: 2\r\n")
    path.chmod(0o640)
    link.symlink_to(path)
    edit_yaml(link, {"a": 10})
    assert path.read_bytes() == b"a: 10 # one\r\nb: 2\r\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, path]


@pytest.mark.parametrize("held", [b"b: 1\n", b"a: [\n", b"a: \xff\n", b"a: {b: 1}\n"])
def test_a_file_that_is_refused_stays(tmp_path, held):
    path = tmp_path / "params.yaml"
    path.write_bytes(held)
    with pytest.raises(PipelineError, match=r"params\.yaml"):
        edit_yaml(path, {"a": 10})
    assert path.read_bytes() == held
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PipelineError, match=r"params\.yaml is missing"):
        edit_yaml(tmp_path / "params.yaml", {"a": 1})


def test_a_list_that_dvc_fills_and_empties_leaves_a_file_that_is_read(tmp_path):
    """A comment behind a list that DVC's -S has filled makes its next `[]` a file of no YAML."""
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED)
    before = parse(SHIPPED)
    lists = ("sweep", "temperatures", "zero_shot.names", "data.labels")
    for value in ("[3,2]", "[]"):
        for key in lists:
            apply_overrides(path, [f"{key}={value}"])
            apply_overrides(path, ["steps=7"])
    kept = {"steps": 7} | {key: [] for key in lists}
    assert parse(path.read_text()) == changed(before, kept)
    assert comments(path.read_text()) == comments(SHIPPED)


def test_a_list_that_dvc_filled_is_replaced_in_brackets(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED)
    apply_overrides(path, ["sweep=[3,2]", "temperatures=[0.5]"])
    assert "sweep:\n- 3" in path.read_text()
    edit_yaml(path, {"sweep": [1, 4, 16, 64], "temperatures": []})
    assert "\nsweep: [1, 4, 16, 64]\ntemperatures: []\nmethod: sedd  " in path.read_text()
    assert parse(path.read_text()) == shipped_params()
    with pytest.raises(PipelineError, match="steps holds no list"):
        edit_yaml(path, {"steps": [1]})
    with pytest.raises(PipelineError, match="sweep holds several values"):
        edit_yaml(path, {"sweep": 1})


def test_labels_are_turned_on_by_one_key(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED)
    labels = "data.labels=[Sex,{column:FirstYear,edges:[1920,1960,1990]}]"
    apply_overrides(path, [labels, "sample.labels=['FirstYear=from 1990']"])
    params = load_params(path)
    assert [label.edges for label in params.data.labels] == [None, [1920, 1960, 1990]]
    assert params.sample.conditioning.labels == {"FirstYear": "from 1990"}
    assert comments(path.read_text()) == comments(SHIPPED)


def comments(text):
    return [line for line in text.splitlines() if line.lstrip().startswith("#")]
