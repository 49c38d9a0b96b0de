"""`sedd login`: where a token goes, who finds it there, and what is refused."""

import os
import pty
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from faulty_server import asking_for, serving
from tiny_project import PROJECT
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import RepositoryError
from pipeline.oxen.credentials import config_folder, token_for

TOKEN = r"SFMyNTY.a'b\c=/+"
COMMAND = [sys.executable, "-c", "from pipeline.cli import app; app()", "login"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OXEN_CONFIG_DIR", str(tmp_path / "oxen"))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    return tmp_path / "oxen"


def login(host, given, *arguments):
    return CliRunner().invoke(app, ["login", host, *arguments], input=given)


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ("hub.oxen.ai", "hub.oxen.ai"),
        ("https://Hub.Oxen.ai/ns/name", "hub.oxen.ai"),
        ("https://hub.oxen.ai:443", "hub.oxen.ai"),
        ("127.0.0.1:3456", "127.0.0.1:3456"),
        ("http://127.0.0.1:3456/ns/name", "127.0.0.1:3456"),
        ("localhost:80", "localhost"),
        ("[::1]:3000", "[::1]:3000"),
    ],
)
def test_a_token_is_found_again(folder, named, kept):
    result = login(named, f"{TOKEN}\n")
    assert result.exit_code == 0, result.output
    assert f"the token for {kept} is kept in {folder}" in result.output
    assert TOKEN not in result.output
    assert token_for(kept) == TOKEN
    assert stat.S_IMODE((folder / "auth_config.toml").stat().st_mode) == 0o600


def test_the_rest_of_the_file_stays(folder):
    folder.mkdir()
    path = folder / "auth_config.toml"
    before = """# mine
default_host = "oxen.example.com"

[[host_configs]]
host = "other"
auth_token = "first"

[[host_configs]]
host = "oxen.example.com"
auth_token = "old"
"""
    path.write_text(before)
    path.chmod(0o644)
    login("oxen.example.com", "new")
    login("third:3000", "3")
    added = """[[host_configs]]
host = "third:3000"
auth_token = "3"
"""
    assert path.read_text() == before.replace("old", "new") + added
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_without_hosts_gets_one(folder):
    folder.mkdir()
    (folder / "auth_config.toml").write_text('default_host = "a"\nhost_configs = []\n')
    login("b", "token")
    assert tomllib.loads((folder / "auth_config.toml").read_text()) == {
        "default_host": "a",
        "host_configs": [{"host": "b", "auth_token": "token"}],
    }


def test_of_many_at_once_none_is_lost():
    hosts = [f"host-{number}:3000" for number in range(6)]
    running = [subprocess.Popen([*COMMAND, host], stdin=subprocess.PIPE) for host in hosts]
    for host, process in zip(hosts, running, strict=True):
        process.communicate(f"token-of-{host}".encode())
    assert [process.returncode for process in running] == [0] * len(hosts)
    assert [token_for(host) for host in hosts] == [f"token-of-{host}" for host in hosts]


def test_a_terminal_shows_nothing_of_it():
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "hub.oxen.ai"], stdin=end, stdout=end, stderr=end, start_new_session=True
    )
    shown = b""
    while b"Token for hub.oxen.ai: " not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, f"{TOKEN}\n".encode())
    while b"is kept in" not in shown:
        shown += os.read(terminal, 1024)
    assert process.wait(10) == 0
    os.close(terminal)
    os.close(end)
    assert TOKEN.encode() not in shown
    assert token_for("hub.oxen.ai") == TOKEN


@pytest.mark.parametrize(
    ("host", "given", "message"),
    [
        ("hub.oxen.ai", "", "no token was given for hub.oxen.ai"),
        ("hub.oxen.ai", "\n", "no token was given"),
        ("hub.oxen.ai", "se cret\n", "without spaces"),
        ("hub.oxen.ai", "se\x1bcret\n", "one word of ASCII"),
        ("hub.oxen.ai", "secrét\n", "one word of ASCII"),
        ("hub.oxen.ai", "secret" * 1000, "4096 at most"),
        ("no host", "secret", "no host is called no host"),
        ("", "secret", "no host is called nothing"),
        ("host:99999", "secret", "Port out of range"),
        ("ssh://host/ns/name", "secret", "no Oxen server can be at ssh://"),
        ("https://secret@host/ns/name", "secret", "before @ is refused"),
    ],
)
def test_what_is_refused_writes_nothing(folder, host, given, message):
    result = login(host, given)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.output.count("\n") == 1
    assert "secret" not in result.output
    assert not folder.exists()


def test_a_token_as_an_argument_is_refused(folder):
    result = login("hub.oxen.ai", "", "secret")
    assert result.exit_code == 1
    assert "shell's history" in result.stderr
    assert "secret" not in result.output
    assert "TOKEN" not in CliRunner().invoke(app, ["login", "--help"]).output
    assert not folder.exists()


DAMAGED = [
    b"host_configs = [secret",
    b"\xffsecret",
    b"host_configs = 5",
    b"host_configs = ['secret']",
    b"host_configs = [[[{}]]]",
    b"[host_configs]\nhost = 'secret'",
    b"[[host_configs]]\nhost = 'hub.oxen.ai'\nauth_token = ['secret']",
    b"[[host_configs]]\nhost = 2024-01-01",
    b"a = " + b"[" * 10_000,
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_store_is_left_as_it_is(folder, content):
    folder.mkdir()
    path = folder / "auth_config.toml"
    path.write_bytes(content)
    result = login("hub.oxen.ai", "token")
    assert result.exit_code == 1
    assert f"{path} is damaged: remove it and run sedd login HOST" in result.stderr
    with pytest.raises(RepositoryError, match="is damaged"):
        token_for("hub.oxen.ai")
    assert "secret" not in result.output
    assert path.read_bytes() == content


def test_a_store_that_cannot_be_made_is_named(folder):
    folder.write_text("a file")
    result = login("hub.oxen.ai", "token")
    assert result.exit_code == 1
    assert str(folder) in result.stderr
    assert result.stderr.count("\n") == 1


def test_oxens_own_client_sends_it_too(oxen_server):
    with serving(asking_for(TOKEN), upstream=oxen_server.host) as server:
        script = f"from oxen import RemoteRepo; RemoteRepo('ns/login', '{server.host}', scheme="
        script += "'http').create(empty=True)"
        command = [sys.executable, "-c", script]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert "401 Unauthorized" in refused.stderr
        login(server.host, TOKEN)
        subprocess.run(command, capture_output=True, timeout=20, check=True)
    assert oxen_server.get("/repos/ns/login")["repository"]["name"] == "login"


def test_the_clients_own_entries_and_ours_are_one_store(folder):
    """Oxen's client writes beside our entry, and finds the same."""
    login("ours:3000", TOKEN)
    script = "from oxen.auth import config_auth; config_auth('theirs', '127.0.0.1:3001')"
    subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=20, check=True)
    login("third:3000", "3")
    assert [token_for(host) for host in ("ours:3000", "127.0.0.1:3001", "third:3000")] == [
        TOKEN,
        "theirs",
        "3",
    ]
    assert config_folder() == Path(folder)
