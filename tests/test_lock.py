"""The lock and what installs it: versions without addresses, pyproject's, and those here."""

import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from tiny_project import PROJECT

import install
from pipeline.environment import LOCK, lock_sha256, normalized, versions_in
from pipeline.files import sha256

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
EXTRAS = PYPROJECT["optional-dependencies"]
# flash-attn is compiled against the PyTorch that is there: no lock can say how.
WANTED = [*PYPROJECT["dependencies"], *(r for e, rs in EXTRAS.items() if e != "flash" for r in rs)]


@pytest.mark.parametrize("text", WANTED)
def test_the_lock_has_a_version_that_pyproject_allows(text):
    wanted = Requirement(text)
    found = versions_in(LOCK).get(normalized(wanted.name))
    assert found, "run `make lock`"
    assert all(each in wanted.specifier for each in found), f"{found}: run `make lock`"


def test_the_lock_holds_exact_versions_and_no_address():
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 200
    assert not [line for line in lines if "==" not in line or "://" in line or " @ " in line]


def test_what_runs_the_tests_is_what_the_lock_says():
    assert lock_sha256() == sha256(LOCK), "run `make test`, or `python install.py dev`"


def test_another_version_or_no_lock_is_no_lock(tmp_path):
    lock = tmp_path / "requirements.lock"
    assert lock_sha256(lock) is None
    lock.write_text(f"numpy=={version('numpy')} ; sys_platform == 'linux'\nnot-here==1\n")
    assert lock_sha256(lock) == sha256(lock)
    lock.write_text(f"# of two platforms\nNumPy==1.0\nnumpy=={version('numpy')}\n")
    assert lock_sha256(lock) == sha256(lock)
    lock.write_text("numpy==1.0\n")
    assert lock_sha256(lock) is None


def test_uv_is_told_what_pip_is_told():
    listed = (
        "global.index-url='https://one/simple'\n"
        "global.extra-index-url='file:///a\\nfile:///b'\n"
        "install.find-links='/wheels'\n"
        "list.format='columns'\n"
        ":env:.index-url='https://two/simple'\n"
        ":env:.cert='/own.crt'\n"
    )
    settings = install.settings_of(listed)
    options = install.uv_options(settings)
    assert options[:2] == ["--index-strategy", "unsafe-best-match"]
    pairs = list(zip(options[2::2], options[3::2], strict=True))
    assert pairs == [
        ("--default-index", "https://two/simple"),
        ("--index", "file:///a"),
        ("--index", "file:///b"),
        ("--find-links", "/wheels"),
    ]


def test_pytorch_is_the_build_for_this_machine_where_pip_has_no_sources_of_its_own(monkeypatch):
    monkeypatch.delenv("UV_TORCH_BACKEND", raising=False)
    chosen = ["--torch-backend", "auto"]
    assert install.uv_options({"cert": "/own.crt"})[2:] == chosen
    assert install.uv_options({"find-links": "/wheels"})[2:] == ["--find-links", "/wheels"]
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu128")
    assert install.uv_options({})[2:] == []


def test_certificates_of_pip_are_uvs_unless_it_has_its_own(monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert "SSL_CERT_FILE" not in install.uv_environment({})
    assert install.uv_environment({"cert": "/own.crt"})["SSL_CERT_FILE"] == "/own.crt"
    monkeypatch.setenv("SSL_CERT_FILE", "/given.crt")
    assert install.uv_environment({"cert": "/own.crt"})["SSL_CERT_FILE"] == "/given.crt"


@pytest.mark.parametrize(("statuses", "started"), [((0, 0), 2), ((0, 1, 0), 3), ((1, 0), 2)])
def test_pip_installs_where_uv_cannot(monkeypatch, capsys, statuses, started):
    commands, left = [], list(statuses)
    monkeypatch.setattr(install, "pip_settings", dict)

    def run(command, environment=None):
        commands.append(command)
        return left.pop(0)

    monkeypatch.setattr(install, "_run", run)
    assert install.main(["dev"]) == 0
    assert len(commands) == started
    by_pip = sum(statuses) > 0
    assert commands[-1][1:4] == ["-m", *(["pip", install.PIP[3]] if by_pip else ["uv", "pip"])]
    assert commands[-1][-5:] == ["--quiet", "--constraint", install.LOCK, "--editable", ".[dev]"]
    assert ("pip does" in capsys.readouterr().err) == by_pip
