"""`sedd pin` on local repositories: what it shows, and the one value that it writes."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from tiny_project import PATIENCE, PROJECT
from tiny_scorers import cached_hub
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.edits import edit_yaml
from pipeline.config.params import load_params
from pipeline.files import folder_revision
from pipeline.oxen.opening import open_repository


@pytest.fixture(autouse=True)
def project(empty_project):
    (empty_project / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    return empty_project


def pin(*arguments):
    return CliRunner().invoke(app, ["pin", *arguments])


def without_columns(text: str) -> str:
    """`text` with one space before each comment: ids of 31 digits move the one behind them."""
    return re.sub(" +#", " #", text)


def table(path: Path, rows: int) -> Path:
    parquet.write_table(pa.table({"text": [f"{path.name} {row}" for row in range(rows)]}), path)
    return path


@pytest.fixture
def commits(project):
    """A repository of two commits, the first of which is pinned."""
    repository = open_repository("texts", PATIENCE, create=True)
    first = {"train-0.parquet": table(project / "a", 3), "old.parquet": table(project / "b", 2)}
    second = {
        "train-0.parquet": table(project / "c", 5),
        "train-1.parquet": table(project / "d", 4),
    }
    ids = [repository.commit(files, f"number {n}") for n, files in enumerate([first, second])]
    edit_yaml(
        project / "params.yaml",
        {"data.repo": "texts", "data.revision": ids[0], "data.files.train": "train-*.parquet"},
    )
    edit_yaml(project / "params.yaml", {"data.files.test": None})
    return ids


def test_folders_are_pinned_as_they_are(project):
    for name in ("weights", "scorer"):
        (project / name / "deep").mkdir(parents=True)
        (project / name / "deep" / "a").write_text(name)
    named = {"train.init": "weights", "score.scorer": "scorer", "zero_shot.against": "scorer"}
    edit_yaml(project / "params.yaml", named)
    before = (project / "params.yaml").read_text()
    assert "train.init_revision: " in pin("--dry-run").stdout
    assert (project / "params.yaml").read_text() == before
    assert pin().exit_code == 0
    params = load_params()
    assert params.train.init_revision == folder_revision(project / "weights")
    assert params.score.scorer_revision == folder_revision(project / "scorer")
    assert params.zero_shot.against_revision == params.score.scorer_revision
    (project / "weights" / "deep" / "a").rename(project / "weights" / "deep" / "b")
    assert params.train.init_revision != folder_revision(project / "weights")
    assert pin().stdout.startswith("train.init_revision: ")


def test_a_scorer_of_the_hub_is_pinned_to_the_newest_commit(project, monkeypatch):
    cached_hub(project / "hub", monkeypatch)
    edit_yaml(project / "params.yaml", {"score.scorer": "gpt2"})
    was = f"score.scorer_revision: gpt2 is at {'a' * 40}, pinned {{}} None\n"
    assert pin("--dry-run").stdout.startswith(was.format("is"))
    assert load_params().score.scorer_revision is None
    assert pin().stdout.startswith(was.format("was"))
    assert load_params().score.scorer_revision == "a" * 40
    assert pin().stdout.startswith("bundled: ")
    edit_yaml(project / "params.yaml", {"score.scorer": "gpt2-large"})
    result = pin()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: score.scorer: gpt2-large is neither on this machine")


def test_the_newest_commit_is_shown_then_pinned(commits, project):
    before = (project / "params.yaml").read_text()
    result = pin("--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:-1] == [
        "added    train-1.parquet  4 rows  (train)",
        "changed  train-0.parquet  3 -> 5 rows  (train)",
        "train: 3 -> 9 rows in all",
    ]
    assert (project / "params.yaml").read_text() == before
    result = pin()
    assert f"pinned {commits[1]}, the newest commit of main of texts" in result.stdout
    after = (project / "params.yaml").read_text()
    assert without_columns(after) == without_columns(before).replace(commits[0], commits[1])
    assert pin().stdout == f"texts: {commits[1]} is pinned, and the newest commit of main\n"


@pytest.mark.slow
def test_a_commit_that_leaves_the_files_alone_says_so(commits, project):
    pin()
    repository = open_repository("texts", PATIENCE)
    (project / "readme").write_text("words")
    repository.commit({"README.md": project / "readme"}, "words")
    result = pin()
    assert result.stdout.splitlines()[:2] == [
        "added    README.md",
        "no file of data.files changes: what was trained on them stays as it is",
    ]


def test_a_pinned_commit_of_another_repository_is_replaced(commits, project):
    edit_yaml(project / "params.yaml", {"data.revision": "0" * 31 + "1"})
    result = pin()
    assert "texts has no commit 00" in result.stdout
    assert "it is replaced" in result.stdout
    assert commits[1] in (project / "params.yaml").read_text()


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ({}, ["other"], "error: data.repo: "),
        ({"data.files.train": "x*"}, [], "error: data.files.train: no file matches (got x*)"),
        ({"data.repo": "nowhere"}, [], "error: data.repo: no Oxen repository at "),
        ({"data.repo": "http://127.0.0.1:1/ns/name"}, [], "refuses connections"),
    ],
)
def test_what_cannot_be_pinned_leaves_the_file(commits, project, values, arguments, message):
    edit_yaml(project / "params.yaml", {"oxen.retries": 0, **values})
    before = (project / "params.yaml").read_bytes()
    result = pin(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert (project / "params.yaml").read_bytes() == before


def test_a_branch_that_was_pinned_is_said_to_be_one(commits, project):
    edit_yaml(project / "params.yaml", {"data.revision": "main"})
    result = pin()
    assert result.stdout.startswith("main is a branch, which moves: a commit of it is pinned")
    assert commits[1] in (project / "params.yaml").read_text()


def test_a_commit_is_no_branch(commits):
    assert f"a branch is asked for, such as main (got the commit {commits[0]})" in (
        pin(commits[0]).stderr
    )


def test_the_bundled_names_have_one_revision(project):
    result = pin()
    assert "is pinned, and the newest commit of main" in result.stdout
    right = (project / "params.yaml").read_bytes()
    edit_yaml(project / "params.yaml", {"data.revision": "abc"})
    assert "it is replaced" in pin().stdout
    assert (project / "params.yaml").read_bytes() == right
