"""The fetch stage: a dataset at its pinned revision, or one message and nothing."""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from tiny_project import PATIENCE

from pipeline.oxen.opening import open_repository
from stages.fetch import main

PROJECT = Path(__file__).parents[2]
SHIPPED = PROJECT / "pipeline" / "data" / "baby_names"


@pytest.fixture(autouse=True)
def project(empty_project):
    return empty_project


def write_params(**data: Any) -> dict[str, Any]:
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    values["data"].update(data)
    # JSON quotes all text: PyYAML leaves a commit bare that YAML 1.2 reads as a number (934161e4).
    Path("params.yaml").write_text(json.dumps(values))
    return values["data"]


def fetch() -> dict[str, Any]:
    main(Path("artifacts/data"), Path("artifacts/provenance.json"))
    return json.loads(Path("artifacts/provenance.json").read_text())


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a fetch that fails and leaves nothing."""
    with pytest.raises(SystemExit) as exit:
        fetch()
    assert exit.value.code == 1
    # What was fetched whole may wait for the next try, under a name that no stage reads.
    assert not list(Path("artifacts").glob("[!.]*"))
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """A local repository of two commits, the second with another train split; and the first."""
    folder = tmp_path_factory.mktemp("names")
    first, second, empty = (folder / name for name in ("first", "second.jsonl", "empty"))
    parquet.write_table(pa.table({"Names": ["Ada", "Ben"]}), first)
    second.write_text('{"Names": "Cleo"}\n')
    parquet.write_table(pa.table({"Names": pa.array([], pa.string())}), empty)
    files = {"train.parquet": first, "deep/test.parquet": first, "empty.parquet": empty}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.setenv("OXEN_CONFIG_DIR", str(folder / "no configuration"))
        repository = open_repository("names", PATIENCE, create=True)
        pinned = repository.commit(files, "first")
        repository.commit({"train.parquet": empty, "train.jsonl": second}, "second")
    return folder / "names", pinned


def test_bundled_names(capfd):
    data = write_params()
    provenance = fetch()
    assert provenance["repo"] == "bundled"
    assert provenance["commit"] == provenance["revision"] == data["revision"]
    assert [(file["path"], file["rows"]) for file in provenance["files"]] == [
        ("train.parquet", parquet.read_metadata(SHIPPED / "train.parquet").num_rows),
        ("test.parquet", 5212),
    ]
    for file in provenance["files"]:
        content = (SHIPPED / file["path"]).read_bytes()
        assert Path("artifacts/data", file["path"]).read_bytes() == content
        assert file["size"] == len(content)
    assert sorted(path.name for path in Path("artifacts").iterdir()) == ["data", "provenance.json"]
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.count("\n") == 1


def test_what_is_there_whole_is_not_fetched_again(monkeypatch, capfd):
    write_params()
    provenance = fetch()
    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.oxen.fetching.open_repository", None)
        assert fetch() == provenance
    assert capfd.readouterr().out.startswith("nothing to fetch: artifacts/data has the files of ")


@pytest.mark.parametrize(
    "damage",
    ["a byte", "one too many", "its provenance"]
    + [
        pytest.param(each, marks=pytest.mark.slow)
        for each in ("a file", "{", "[1]", '{"files": [{}]}')
    ],
)
def test_what_is_not_whole_is_fetched_again(capfd, damage):
    write_params()
    before = fetch()
    data = Path("artifacts/data")
    content = (data / "train.parquet").read_bytes()
    if damage == "a byte":
        (data / "train.parquet").write_bytes(content[:-1] + b"x")
    elif damage == "a file":
        (data / "train.parquet").unlink()
    elif damage == "one too many":
        (data / "stale.parquet").write_text("of an earlier fetch")
    elif damage == "its provenance":
        Path("artifacts/provenance.json").unlink()
    else:
        Path("artifacts/provenance.json").write_text(damage)
    assert fetch() == before
    assert "nothing to fetch" not in capfd.readouterr().out
    assert (data / "train.parquet").read_bytes() == content
    assert sorted(path.name for path in data.iterdir()) == ["test.parquet", "train.parquet"]


def test_a_local_repository_at_an_old_commit(names, tmp_path):
    path, pinned = names
    repo = os.path.relpath(path, tmp_path)
    files = {"train": "train.parquet", "test": "deep/test.parquet"}
    write_params(repo=repo, revision=pinned, files=files, max_overlap=1)
    Path("artifacts/data").mkdir(parents=True)
    Path("artifacts/data/stale.parquet").write_text("of an earlier fetch")
    for killed in (".data.partial/deep", ".data.partial.x.partial"):
        Path("artifacts", killed).mkdir(parents=True)
    Path("artifacts/.data.partial/deep/other.parquet").write_text("of another commit")
    provenance = fetch()
    assert provenance["repo"] == repo
    assert provenance["commit"] == pinned
    assert [file["rows"] for file in provenance["files"]] == [2, 2]
    there = Path("artifacts/data").rglob("*")
    assert sorted(str(path) for path in there if path.is_file()) == [
        "artifacts/data/deep/test.parquet",
        "artifacts/data/train.parquet",
    ]
    assert sorted(path.name for path in Path("artifacts").iterdir()) == ["data", "provenance.json"]
    kept = Path("artifacts/data/train.parquet").read_bytes()
    # A fetch that fails leaves what an earlier one brought.
    write_params(repo=repo, revision=pinned)
    with pytest.raises(SystemExit):
        fetch()
    assert Path("artifacts/data/train.parquet").read_bytes() == kept


def test_a_missing_file_a_branch_and_an_empty_dataset(names, capsys):
    path, pinned = names
    repo = str(path)
    write_params(repo=repo, revision=pinned)
    message = refused(capsys)
    assert "error: data.files.test: " in message
    assert "no file test.parquet" in message
    assert "it has deep, empty.parquet, train.parquet" in message

    write_params(repo=repo, revision="main")
    message = refused(capsys)
    assert "error: data.revision: a branch moves" in message
    assert "(got main, which is at " in message
    assert "`sedd pin main` writes it" in message

    write_params(repo=repo, revision="934161e4")
    message = refused(capsys)
    assert f"error: data.revision: {path} has no commit 934161e4 " in message
    assert "`sedd pin` takes the newest commit of main" in message

    files = {"train": "empty.parquet", "test": "deep/test.parquet"}
    write_params(repo=repo, revision=pinned, files=files)
    assert "error: data.files.train: empty.parquet has no rows" in refused(capsys)


def test_empty_and_damaged_files_are_no_matter_beside_good_ones(tmp_path, capsys):
    """One that is asked for is named; a damaged one that nobody asked for is left alone."""
    good, empty, damaged = (tmp_path / name for name in ("good", "empty", "damaged"))
    parquet.write_table(pa.table({"Names": ["Ada", "Ben"]}), good)
    parquet.write_table(pa.table({"Names": pa.array([], pa.string())}), empty)
    footer = b"garbage of right length"
    damaged.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    repository = open_repository("names", PATIENCE, create=True)
    files = {"train-0.parquet": good, "train-1.parquet": empty, "test.parquet": good}
    pinned = repository.commit(files | {"broken.parquet": damaged}, "all")
    asked = {"train": "train-*.parquet", "test": "test.parquet"}
    write_params(repo="names", revision=pinned, files=asked, max_overlap=1)
    assert [file["rows"] for file in fetch()["files"]] == [2, 0, 2]
    Path("artifacts/provenance.json").unlink()
    shutil.rmtree("artifacts/data")
    capsys.readouterr()
    write_params(repo="names", revision=pinned, files={**asked, "test": "broken.parquet"})
    message = refused(capsys)
    assert message.startswith("error: data.files.test: broken.parquet is damaged or not parquet")
    assert message.count("\n") == 1


def test_documents_of_both_splits_are_counted(tmp_path, capfd):
    """And refused past the share that is asked for, also when they are here already."""
    train, test = (tmp_path / name for name in ("train", "test"))
    parquet.write_table(pa.table({"Names": ["Bea", "Al", "Al"], "Other": ["a", "b", "c"]}), train)
    parquet.write_table(pa.table({"Names": ["Al", "Be", "Al"], "Other": ["d", "e", "f"]}), test)
    repository = open_repository("names", PATIENCE, create=True)
    pinned = repository.commit({"train.parquet": train, "test.parquet": test}, "both")
    line = "2 of 3 held-out documents are in the training split too: what is measured on them is"
    write_params(repo="names", revision=pinned)
    assert refused(capfd).startswith(f"error: data.max_overlap: {line} memory (got 0.1): ")
    write_params(repo="names", revision=pinned, max_overlap=0.7)
    assert fetch()["overlap"] == {"num_held_out": 3, "num_in_train": 2}
    assert capfd.readouterr().err == f"{line} memory\n"
    write_params(repo="names", revision=pinned, max_overlap=0.5)
    with pytest.raises(SystemExit):
        fetch()
    assert line in capfd.readouterr().err
    write_params(repo="names", revision=pinned, column="Other")
    assert fetch()["overlap"] == {"num_held_out": 3, "num_in_train": 0}
    # One split by the text of each document.
    files = {"train": "train.parquet", "test": None}
    write_params(repo="names", revision=pinned, files=files, holdout=0.5)
    assert fetch()["overlap"]["num_in_train"] == 0
    write_params(repo="names", revision=pinned, column="None")
    with pytest.raises(SystemExit):
        fetch()
    said = capfd.readouterr().err
    assert said.startswith("error: test.parquet has no column 'None' (data.column); its columns: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"revision": "abc"}, "data.revision: the bundled names have one revision, the SHA-256"),
        ({"repo": "nowhere"}, "data.repo: no Oxen repository at"),
        (
            {"repo": "https://hub.oxen.ai/ox"},
            "data.repo: an address is https://HOST/NAMESPACE/NAME",
        ),
    ],
)
def test_what_needs_no_fetch_to_refuse(capsys, data, message):
    write_params(**data)
    assert refused(capsys).startswith(f"error: {message}")


def test_files_of_other_formats_come_as_they_are(tmp_path, capsys):
    written = {
        "a.txt.gz": gzip.compress(b"Ada\n\nBen\n"),
        "b.txt.zst": pa.compress(b"Cleo\n", "zstd", asbytes=True),
        "c.csv": b'Names,Count\n"Dora\nEva",1\n',
        "d.txt": b"Fay\nG\xffs\n",
        "e.txt.gz": gzip.compress(b"Hal\n" * 9999)[:-9],
        "f.json": b"{}",
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    repository = open_repository("names", PATIENCE, create=True)
    pinned = repository.commit({f"deep/{name}": tmp_path / name for name in written}, "all")
    files = {"train": "deep/[ab].txt*", "test": "deep/c.csv"}
    write_params(repo="names", revision=pinned, files=files)
    assert [(file["path"], file["rows"]) for file in fetch()["files"]] == [
        ("deep/a.txt.gz", 3),
        ("deep/b.txt.zst", 1),
        ("deep/c.csv", 1),
    ]
    for name in ("a.txt.gz", "b.txt.zst", "c.csv"):
        assert Path("artifacts/data/deep", name).read_bytes() == written[name]
    for name, said in {
        "d.txt": "line 2 is not UTF-8 (",
        "e.txt.gz": "is damaged or not gzip: Truncated compressed stream",
        "f.json": "a dataset file is .txt (a document a line), .csv or .tsv",
    }.items():
        Path("artifacts/provenance.json").unlink(missing_ok=True)
        shutil.rmtree("artifacts/data", ignore_errors=True)
        write_params(repo="names", revision=pinned, files={**files, "test": f"deep/{name}"})
        message = refused(capsys)
        assert message.startswith(f"error: data.files.test: deep/{name}")
        assert said in message
        assert message.count("\n") == 1
