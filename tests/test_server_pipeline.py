"""The whole pipeline, tiny, with its data from a real server that wants a token, samples to it."""

from pathlib import Path

import pytest
from faulty_server import asking_for, serving
from pyarrow.parquet import read_table, write_table
from tiny_clone import ALL, SWEEP, make_clone, ran, run
from tiny_project import PATIENCE

from pipeline.data.corpus import read_documents
from pipeline.files import sha256
from pipeline.oxen.bundled import SHIPPED
from pipeline.oxen.opening import open_repository

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TOKEN = "-".join(("sesame", "opens", "everything"))  # not whole in this file, which is cloned
STORE = '[[host_configs]]\nhost = "{}"\nauth_token = "{}"\n'
SAMPLING = {"sample", *(f"sweep_sample@{n}" for n in SWEEP)}


@pytest.fixture
def closed(own_oxen_server, tmp_path, monkeypatch):
    """A proxy before the server that asks for the token, which Oxen's store holds."""
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path / "oxen"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with serving(asking_for(TOKEN), upstream=own_oxen_server.host) as server:
        (tmp_path / "oxen").mkdir()
        (tmp_path / "oxen" / "auth_config.toml").write_text(STORE.format(server.host, TOKEN))
        yield server


def commit(url: str, **files: Path) -> str:
    """Commit parquet files by name; the new commit's id."""
    named = {f"{name}.parquet": path for name, path in files.items()}
    made = open_repository(url, PATIENCE, create=True).commit(named, "data")
    assert made is not None
    return made


def published(url: str, folder: Path) -> Path:
    """Every file at the head of the samples' repository."""
    repository = open_repository(url, PATIENCE)
    head = repository.resolve("main")
    files = {entry.path: entry.path for entry in repository.entries(head)}
    repository.fetch(head, files, folder)
    return folder


def assert_traced(folder: Path, commits: list[str]) -> None:
    """Every row names a run, and that its weights, which are here, and its data commit."""
    runs = {run["run"]: run for path in (folder / "runs").glob("*.parquet")
            for run in read_table(path).to_pylist()}  # fmt: skip
    assert sorted(run["data_commit"] for run in runs.values()) == sorted(commits)
    weights = {
        sha256(path): path.parent.name
        for path in (folder / "checkpoints").glob("*/model.safetensors")
    }
    assert {run["checkpoint_sha256"] for run in runs.values()} == weights.keys()
    assert all(name == found[:16] for found, name in weights.items())
    rows = [row for path in (folder / "samples").glob("*.parquet")
            for row in read_table(path).to_pylist()]  # fmt: skip
    assert {row["run"] for row in rows} == runs.keys()
    assert len(rows) == len(runs) * (1 + len(SWEEP)) * 16
    fingerprints = {path.parent.name for path in (folder / "snapshots").glob("*/*.parquet")}
    assert {run["training_fingerprint"] for run in runs.values()} == fingerprints


def holding(folder: Path, text: str) -> list[Path]:
    """Files in which `text` stands, tables also uncompressed."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            table = repr(read_table(path).to_pylist()) if path.suffix == ".parquet" else ""
            if text.encode() in path.read_bytes() or text in table:
                found.append(path)
    return found


def test_data_from_a_server_and_samples_to_it(closed, own_oxen_server, tmp_path):
    names, samples = (f"http://{closed.host}/ada/{name}" for name in ("names", "samples"))
    source = {split: SHIPPED / f"{split}.parquet" for split in ("train", "test")}
    first = commit(names, **source)
    clone = make_clone(
        tmp_path / "project",
        {
            "data.repo": names,
            "publish.repo": samples,
            "publish.checkpoint": True,
            "publish.during_training": True,
        },
    )
    said: list[str] = []

    def typed(*command: str, status: int = 0, **environment: str) -> str:
        said.append(run(clone, *command, status=status, **environment))
        return said[-1]

    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "auth_config.toml").write_text(STORE.format(closed.host, TOKEN[::-1]))
    refused = typed("sedd", "pin", status=1, OXEN_CONFIG_DIR=str(wrong))
    assert f"the server wants a token it knows: sedd login {closed.host}" in refused
    assert TOKEN[::-1] not in refused

    assert f"pinned {first}" in typed("sedd", "pin")
    assert ran(typed("dvc", "repro")) == ALL
    for split, path in source.items():
        assert (clone / f"artifacts/data/{split}.parquet").read_bytes() == path.read_bytes()

    # Another commit, which leaves the files alone; nothing changes until it is pinned.
    second = commit(names, more=source["test"])
    assert ran(typed("dvc", "repro")) == set()
    assert "no file of data.files changes" in typed("sedd", "pin")
    assert ran(typed("dvc", "repro")) == {"fetch", "report", "track", "publish"}

    # One of fewer held-out names: the weights come out the same, so nothing is sampled again.
    fewer = tmp_path / "fewer.parquet"
    write_table(read_table(source["test"]).slice(0, 2000), fewer)
    third = commit(names, test=fewer)
    assert "(test)" in typed("sedd", "pin")
    assert ran(typed("dvc", "repro")) == ALL - SAMPLING
    assert len(list(read_documents(clone / "artifacts/data/test.parquet", "Names"))) == 2000

    assert_traced(published(samples, tmp_path / "published"), [first, second, third])
    assert "publish" not in ran(typed("dvc", "repro"))
    assert TOKEN not in "".join(said)
    assert holding(tmp_path, TOKEN) == [tmp_path / "oxen" / "auth_config.toml"]
