"""`sedd import` from Oxen repositories and from the Hugging Face hub."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from importing_checks import assert_holds
from tiny_project import PATIENCE

from benchmarks.oxen_server import free_port
from pipeline.checkpoints.checkpoint import load_checkpoint, weights_sha256
from pipeline.config.edits import edit_yaml
from pipeline.oxen.opening import open_repository
from pipeline.publishing.publication import checkpoint_files

# Oxen repositories.

COMMIT = """
import sys, oxen, shutil
from pathlib import Path
source, folder = map(Path, sys.argv[1:])
repo = oxen.Repo(str(folder), mkdir=True)
repo.init()
(folder / "README.md").write_text("nothing yet")
repo.add(str(folder / "README.md"))
print("commit", repo.commit("empty").id)
for path in source.iterdir():
    shutil.copy(path, folder / path.name)
    repo.add(str(folder / path.name))
print("commit", repo.commit("weights").id)
"""


@pytest.fixture
def repository(source, tmp_path, monkeypatch):
    """An Oxen repository: its path, a commit without a checkpoint, and the head that has one."""
    (tmp_path / "oxen").mkdir()
    (tmp_path / "oxen/user_config.toml").write_text('name = "A User"\nemail = "a@example.org"\n')
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path / "oxen"))
    path = tmp_path / "repository"
    command = [sys.executable, "-c", COMMIT, str(source), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    empty, head = re.findall(r"^commit (\w+)$", done.stdout, re.MULTILINE)
    (path / "model.safetensors").write_text("the user's own change")
    return path, empty, head


def test_an_oxen_repository(sedd, repository, source, tmp_path):
    path, _, head = repository
    assert sedd("import", source, tmp_path / "plain").exit_code == 0
    for name, options in {"branch": (), "commit": ("--revision", head)}.items():
        result = sedd("import", path, tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        for file in ("config.json", "model.safetensors", "tokenizer/tokenizer.json"):
            imported = (tmp_path / name / file).read_bytes()
            assert imported == (tmp_path / "plain" / file).read_bytes()


def test_oxen_revisions_without_a_checkpoint(refused, refusal, repository, tmp_path, sedd):
    path, empty, _ = repository
    message = refused(path, "--revision", empty)
    assert message == f"no published checkpoint in {path} at {empty}: it has README.md"
    result = sedd("import", path, tmp_path / "it", "--revision", "f" * 32)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: --revision: {path} has no commit fff")


def test_a_server_that_is_away_is_one_message(refused, project):
    url = f"http://127.0.0.1:{free_port()}/org/weights"
    edit_yaml(project / "params.yaml", {"oxen.retries": 0})
    assert refused(url).startswith(f"SRC: {url}: the server refuses connections")


# On a server, and what `publish.checkpoint` has put there.


@pytest.fixture
def publish(oxen_server, tmp_path):
    """Commit files to a repository of this name on the server; its address."""

    def run(name, files):
        url = oxen_server.url("imports", name)
        open_repository(url, PATIENCE, create=True).commit(files, "files")
        return url

    return run


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_published_layout_on_a_server(sedd, publish, source, tmp_path):
    assert sedd("import", source, tmp_path / "plain").exit_code == 0
    files = {path.name: path for path in source.iterdir()}
    below = {f"models/it/{name}": path for name, path in files.items()}
    for url, options in {
        publish("layout", files): (),
        publish("below", below): ("--path", "models/it/"),
    }.items():
        name = url.rpartition("/")[2]
        result = sedd("import", url, tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        assert tree(tmp_path / name) == tree(tmp_path / "plain")


def own(folder):
    return checkpoint_files(folder, weights_sha256(folder))


@pytest.mark.parametrize(
    ("where", "said"), [("server", "absorb, loglinear, "), ("folder", "embedding, ")]
)
def test_an_own_checkpoint(sedd, publish, model, make_embedding, tmp_path, where, said):
    model = make_embedding() if where == "folder" else model
    files = own(model) | {"runs/a.json": model / "config.json"}
    if where == "server":
        repository = publish("own", files)
    else:
        repository = tmp_path / "repository"
        open_repository(str(repository), PATIENCE, create=True).commit(files, "files")
    result = sedd("import", repository, tmp_path / "it")
    assert result.exit_code == 0, result.output
    assert f"to {tmp_path / 'it'}: {said}" in result.stdout
    assert tree(tmp_path / "it") == tree(model)
    shown = sedd("sample", "--model", tmp_path / "it", "--steps", 2, "--num", 1, "--seed", 0)
    assert shown.exit_code == 0, shown.output


def test_one_of_several_is_named(sedd, refused, publish, make_model, model, tmp_path):
    other = make_model(says=5)
    folders = sorted(f"checkpoints/{weights_sha256(folder)[:16]}" for folder in (model, other))
    url = publish("several", own(model) | own(other))
    message = refused(url)
    assert message.endswith(f"several checkpoints: name one with --path ({', '.join(folders)})")
    chosen = f"checkpoints/{weights_sha256(other)[:16]}"
    assert sedd("import", url, tmp_path / "it", "--path", chosen).exit_code == 0
    assert_holds(tmp_path / "it", load_checkpoint(other, "cpu"))
    message = refused(url, "--path", "checkpoints/none")
    assert message.startswith(f"no published checkpoint in checkpoints/none/ of {url} at ")


def test_an_own_checkpoint_that_is_damaged(refused, publish, make_model, tmp_path, letters):
    files = own(make_model())
    [tokenizer] = [name for name in files if name.endswith("tokenizer.json")]
    message = refused(publish("mixed", files | {tokenizer: letters / "tokenizer.json"}))
    assert "was trained with tokenizer" in message
    [weights] = [name for name in files if name.endswith("safetensors")]
    (tmp_path / "half").write_bytes(files[weights].read_bytes()[:-9])
    assert "cannot be read" in refused(publish("half", files | {weights: tmp_path / "half"}))
    assert "its own" in refused(publish("own", files), "--tokenizer", letters)


def test_a_plain_folder_has_no_path(refused, source):
    assert refused(source, "--path", "x") == f"--path: {source} is no Oxen repository"


# The Hugging Face hub.


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs: one model, `org/model`, at one commit."""

    folder: Path
    asked: list[str]
    commit = "c" * 40

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0]
        self.asked.append(path)
        files = {file.name: file.read_bytes() for file in self.folder.iterdir()}
        listing = {
            "id": "org/model",
            "sha": self.commit,
            "siblings": [{"rfilename": name} for name in files],
        }
        kind, name = "application/json", path.rsplit("/", 1)[-1]
        if path in ("/api/models/org/model", "/api/models/org/model/revision/main"):
            content = json.dumps(listing).encode()
        elif path == f"/api/models/org/model/tree/{self.commit}":
            content = json.dumps(
                [
                    {"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40}
                    for name in files
                ]
            ).encode()
        elif path.startswith(f"/org/model/resolve/{self.commit}/") and name in files:
            kind, content = "application/octet-stream", files[name]
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{hash(content) & (2**63 - 1):x}"')
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(source):
    (source / "README.md").write_text("# A model")
    (source / "weights.bak").write_text("large")
    handler = type("OneModel", (Hub,), {"folder": source, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


def from_hub(endpoint, tmp_path, *arguments):
    """`sedd import` in a process of its own: the hub's client reads its address on import."""
    command = [sys.executable, "-c", "from pipeline.cli import app; app()", "import"]
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf")}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        check=False,
    )


def test_a_hugging_face_id(hub, sedd, source, tmp_path):
    endpoint, asked = hub
    result = from_hub(endpoint, tmp_path, "org/model", "it")
    assert result.returncode == 0, result.stderr
    assert sedd("import", source, tmp_path / "plain").exit_code == 0
    for file in ("config.json", "model.safetensors", "tokenizer/tokenizer.json"):
        imported = (tmp_path / "it" / file).read_bytes()
        assert imported == (tmp_path / "plain" / file).read_bytes()
    names = {path.rsplit("/", 1)[-1] for path in asked}
    assert "model.safetensors" in names
    assert not names & {"README.md", "weights.bak"}


@pytest.mark.slow
def test_the_hubs_cache_serves_without_it(hub, tmp_path):
    endpoint, _ = hub
    assert from_hub(endpoint, tmp_path, "org/model", "first").returncode == 0
    result = from_hub("http://127.0.0.1:9", tmp_path, "org/model", "second")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "second/model.safetensors").is_file()


@pytest.mark.slow
def test_what_the_hub_does_not_have_is_one_message(hub, tmp_path):
    endpoint, _ = hub
    for address, name in ((endpoint, "org/other"), ("http://127.0.0.1:9", "org/model")):
        result = from_hub(address, tmp_path, name, "it")
        assert result.returncode == 1
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert lines == [result.stderr.strip()]
        assert lines[0].startswith(f"error: SRC: {name} is neither on this machine nor")
        assert not (tmp_path / "it").exists()
