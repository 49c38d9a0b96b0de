"""`sedd doctor`: what it says of sound and unsound projects, and that dead hosts cannot hold it."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from faulty_server import COMMIT, asking_for, serving
from tiny_project import PROJECT, TINY, write_params
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.cli.server_checks import asked
from pipeline.config.edits import edit_yaml
from pipeline.config.params import load_params
from pipeline.errors import DataError, ServerError
from pipeline.files import write_json
from pipeline.oxen.credentials import keep_token
from pipeline.oxen.fetching import Fetched, Overlap, Provenance
from pipeline.publishing.spool import spool_for
from pipeline.tracking.store import create_database, local_uri, locked

CHECKS = ["params.yaml", "Python", "torch", "device", "scorer", "flash-attn", "DVC", "disk"]
CHECKS += ["spool", "MLflow", "data.repo", "publish.repo"]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project in which nothing is wrong."""
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(PROJECT / "dvc.yaml", folder)
    write_params(folder, TINY)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path / "oxen"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    usage = SimpleNamespace(free=100e9)
    monkeypatch.setattr("pipeline.cli.checks.shutil.disk_usage", lambda _: usage)
    return folder


def edit(**values):
    edit_yaml(Path("params.yaml"), {key.replace("__", "."): value for key, value in values.items()})


def doctor():
    """Exit status, and each line's mark and text."""
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, parsed(result.stdout)


def parsed(output):
    assert all(line[12:14] == line[18:20] == "  " for line in output.splitlines()), output
    lines = [line.split(maxsplit=2) for line in output.splitlines()]
    return {name: (mark, text) for name, mark, text in lines}


def test_a_sound_project(project):
    status, lines = doctor()
    assert status == 0
    assert list(lines) == CHECKS
    assert {mark for mark, _ in lines.values()} == {"ok"}
    assert "not installed, not needed" in lines["flash-attn"][1]
    assert not (project / ".store").exists()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_a_store_that_is_there_is_opened(project):
    with locked():
        create_database(local_uri())
    assert doctor()[1]["MLflow"] == ("ok", f"{local_uri()} answers")


def test_a_damaged_store_fails(project):
    (project / ".store/mlflow").mkdir(parents=True)
    (project / ".store/mlflow/mlflow.db").write_bytes(b"no database" * 1000)
    status, lines = doctor()
    assert status == 1
    assert lines["MLflow"][0] == "FAIL"
    assert "mlflow.db cannot be used" in lines["MLflow"][1]


def test_outside_a_project_there_is_one_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["doctor"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {tmp_path} is no project, as it has no params.yaml: ")
    assert result.stderr.count("\n") == 1


def test_every_mistake_of_the_parameters_is_on_one_line():
    edit(steps=0, train__lr=-1)
    status, lines = doctor()
    assert status == 1
    mark, text = lines["params.yaml"]
    assert mark == "FAIL"
    assert "steps: " in text
    assert "train.lr: " in text
    assert set(lines) == set(CHECKS) - {"device", "scorer", "data.repo", "publish.repo", "MLflow"}


def test_another_python(project, monkeypatch):
    other = project / "bin/python"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho /somewhere\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")
    status, lines = doctor()
    assert status == 1
    assert lines["Python"][0] == "FAIL"
    assert f"DVC would start its stages with {other}" in lines["Python"][1]


@pytest.mark.parametrize(
    ("values", "check", "mark", "text"),
    [
        ({"device": "cuda:7"}, "device", "FAIL", "use auto or cpu"),
        ({"score.scorer": "nowhere"}, "scorer", "FAIL", "holds no transformers model"),
        ({"data.repo": "nowhere"}, "data.repo", "FAIL", "no Oxen repository at "),
        ({"data.repo": "https://a:b@host/ns/name"}, "data.repo", "FAIL", "is refused"),
        ({"data.revision": "abc"}, "data.repo", "FAIL", "have one revision"),
        ({"publish.repo": "bundled"}, "publish.repo", "FAIL", "can only be read"),
        ({"publish.repo": "dvc.yaml/samples"}, "publish.repo", "FAIL", "is not writable"),
        ({"tracking.uri": "nonsense://x"}, "MLflow", "FAIL", "tracking.uri in params.yaml"),
    ],
)
def test_what_is_wrong_is_named(values, check, mark, text):
    edit_yaml(Path("params.yaml"), values)
    status, lines = doctor()
    assert lines[check][0] == mark
    assert text in lines[check][1]
    assert [name for name, line in lines.items() if line[0] != "ok"] == [check]
    assert status == (mark == "FAIL")


def test_no_repository_of_dvc(project):
    (project / ".dvc").rmdir()
    assert doctor()[1]["DVC"][0] == "FAIL"
    (project / "dvc.yaml").unlink()
    assert "has no dvc.yaml" in doctor()[1]["DVC"][1]


@pytest.mark.parametrize(("free", "mark"), [(5.1e9, "ok"), (4.9e9, "warn"), (0.9e9, "FAIL")])
def test_free_disk(monkeypatch, free, mark):
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr("pipeline.cli.checks.shutil.disk_usage", lambda _: usage)
    status, lines = doctor()
    assert lines["disk"][0] == mark
    assert status == (mark == "FAIL")


def test_what_waits_is_a_warning(project):
    spool_for("http://host/ns/name").put("http://host/ns/name", {"a": project / "dvc.yaml"}, "one")
    status, lines = doctor()
    assert status == 0
    assert lines["spool"] == (
        "warn",
        "commits wait: 1 for http://host/ns/name: `sedd publish --flush` sends them",
    )


def test_a_scorer_of_the_hub(project, monkeypatch):
    edit(score__scorer="gpt2")
    assert doctor()[1]["scorer"][0] == "FAIL"
    edit(score__scorer_revision="a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project / "hub"))
    assert doctor()[1]["scorer"][0] == "warn"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert doctor()[1]["scorer"][0] == "FAIL"
    snapshot = project / "hub/models--gpt2/snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (snapshot / name).touch()
    assert doctor()[1]["scorer"] == ("ok", "gpt2, in the cache of this machine")


def test_a_scorer_in_a_folder(project):
    edit(score__scorer="scorer")
    (project / "scorer").mkdir()
    (project / "scorer/config.json").touch()
    assert doctor()[1]["scorer"][0] == "FAIL"
    (project / "scorer/model.safetensors").touch()
    assert doctor()[1]["scorer"] == ("ok", str(project / "scorer"))


def test_servers_and_their_tokens():
    with serving(asking_for("secret")) as server:
        edit(data__repo=server.url, data__revision=COMMIT, publish__repo=server.url)
        status, lines = doctor()
        assert status == 1
        assert lines["data.repo"][0] == "FAIL"
        assert lines["publish.repo"][0] == "warn"
        for name in ("data.repo", "publish.repo"):
            assert f"sedd login {server.host}" in lines[name][1]
        keep_token(server.host, "secret")
        status, lines = doctor()
        assert status == 0
        token = f", with the token for {server.host}"
        assert lines["data.repo"] == ("ok", f"{server.url} has {COMMIT}{token}")
        assert lines["publish.repo"] == ("ok", f"{server.url} answers{token}")
        edit(data__revision="main")
        assert "sedd pin main" in doctor()[1]["data.repo"][1]
        assert "secret" not in str(lines)


def test_a_server_without_the_repository(oxen_server):
    url = oxen_server.url("ns", "nowhere")
    edit(data__repo=url, publish__repo=url)
    status, lines = doctor()
    assert status == 1
    assert "does not exist" in lines["data.repo"][1]
    assert lines["data.repo"][0] == "FAIL"
    assert lines["publish.repo"][0] == "ok"
    assert "the first publish creates it, without a token" in lines["publish.repo"][1]


def closed_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_data_that_is_here_needs_no_server(project):
    edit(data__repo=f"http://127.0.0.1:{closed_port()}/ns/name", data__revision=COMMIT)
    data = load_params().data
    held = Fetched(path=data.files.train, split="train", size=3, sha256="", rows=1)
    asked = {"repo": data.repo, "host": None, "revision": COMMIT, "commit": COMMIT}
    overlap = Overlap(num_held_out=1, num_in_train=0)
    read = {"asked": data.files, "column": data.column, "overlap": overlap}
    provenance = Provenance(**asked, **read, files=[held])
    write_json(project / "artifacts/provenance.json", provenance.model_dump())
    assert doctor()[1]["data.repo"][0] == "FAIL"
    file = project / "artifacts/data" / data.files.train
    file.parent.mkdir(parents=True)
    file.write_text("123")
    status, lines = doctor()
    assert (status, lines["data.repo"][0]) == (0, "warn")
    assert "refuses connections" in lines["data.repo"][1]
    file.write_text("12")
    assert doctor()[1]["data.repo"][0] == "FAIL"


@pytest.mark.parametrize(("strict", "mark"), [(False, "warn"), (True, "FAIL")])
def test_a_dead_place_to_publish(strict, mark):
    edit(publish__repo=f"http://127.0.0.1:{closed_port()}/ns/name", publish__strict=strict)
    status, lines = doctor()
    assert lines["publish.repo"][0] == mark
    assert status == strict


@pytest.mark.slow
def test_with_every_host_dead_it_takes_15_seconds_at_most():
    """They accept, and never answer: what takes longest."""
    with serving(lambda request: request.stall()) as server:
        host = server.host
        edit(data__repo=f"http://{host}/ns/name", data__revision=COMMIT)
        edit(publish__repo=f"http://{host}/ns/other", tracking__uri=f"http://ada:secret@{host}")
        begin = time.monotonic()
        command = [sys.executable, "-c", "from pipeline.cli import app; app()", "doctor"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            timeout=60,
            check=False,
        )
        seconds = time.monotonic() - begin
    assert done.returncode == 1, done.stderr
    lines = parsed(done.stdout)
    marks = {name: mark for name, (mark, _) in lines.items() if mark != "ok"}
    marks.pop("disk", None)  # as it is here
    assert marks == {"data.repo": "FAIL", "publish.repo": "warn", "MLflow": "FAIL"}
    assert "no byte has moved" in lines["data.repo"][1]
    assert seconds < 15
    assert done.stderr == ""
    assert "secret" not in done.stdout


def test_a_question_ends_with_its_time():
    never = threading.Event()
    begin = time.monotonic()
    answers = [asked(lambda: never.wait(20), begin + 0.3) for _ in range(3)]
    for answer in answers:
        with pytest.raises(ServerError, match="no answer within 0 s"):
            answer()
    assert 0.2 < time.monotonic() - begin < 2
    never.set()


def test_a_question_answers_or_raises():
    until = time.monotonic() + 5

    def fail() -> None:
        raise DataError("no")

    assert asked(lambda: 3, until)() == 3
    with pytest.raises(DataError, match="no"):
        asked(fail, until)()
