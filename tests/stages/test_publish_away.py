"""Publishing to a server that is away: what waits, what is said, and what is sent later."""

import json
import os
import random
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from faulty_server import Request, serving
from pyarrow import parquet
from test_stage_publish import PROJECT, kill_after, start, write_experiment
from typer.testing import CliRunner

from benchmarks.oxen_server import free_port
from pipeline.cli import app
from pipeline.config.data import Patience
from pipeline.oxen.opening import open_repository
from pipeline.publishing.spool import waiting_spools
from stages.publish import main

PATIENCE = Patience(connect_seconds=1, stall_seconds=5, retries=0)


@pytest.fixture(autouse=True)
def project(empty_project):
    return empty_project


def experiment(folder: Path, repo: str, seed: int = 0, **publish: object) -> None:
    write_experiment(folder, seed)
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["publish"] |= {"repo": repo, **publish}
    values["oxen"] = PATIENCE.model_dump()
    path.write_text(yaml.safe_dump(values))


def publish() -> None:
    main(Path("artifacts"), Path("reports"))


def waiting() -> list[str]:
    return [item.repository for spool in waiting_spools() for item in spool.items()]


def flush() -> tuple[int, str]:
    result = CliRunner().invoke(app, ["publish", "--flush"])
    return result.exit_code, result.output


def committed(url: str) -> dict[str, str]:
    """Path -> hash of every file at the head."""
    repository = open_repository(url, PATIENCE)
    return {entry.path: entry.hash for entry in repository.entries(repository.resolve("main"))}


def test_what_cannot_be_sent_waits_and_is_named_in_one_line(project, capfd):
    url = f"http://127.0.0.1:{free_port()}/ns/samples"
    experiment(project, url)
    publish()
    said = capfd.readouterr()
    [spool] = waiting_spools()
    assert said.out.count("\n") == 1
    assert f": 1 commit waits in {spool.folder} (" in said.out
    assert "`sedd publish --flush` sends what waits" in said.out
    publish()
    assert waiting() == [url]
    experiment(project, url, seed=1)
    publish()
    assert waiting() == [url, url]
    status, said = flush()
    assert status == 1
    assert f"still waiting: 2 commits for {url} in {spool.folder}" in said
    listed = CliRunner().invoke(app, ["publish"])
    assert listed.exit_code == 0
    assert listed.output.count("  Samples and results of ") == 2


def test_strict_makes_it_an_error_and_it_still_waits(project, capsys):
    url = f"http://127.0.0.1:{free_port()}/ns/samples"
    experiment(project, url, strict=True)
    with pytest.raises(SystemExit) as ended:
        publish()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: publish.repo: 8 samples as ")
    assert waiting() == [url]


@pytest.mark.parametrize("strict", [False, True])
def test_what_a_server_refuses_is_kept_and_an_error_only_if_strict(
    project, oxen_server, strict, capsys
):
    def fault(request: Request) -> object:
        return request.path.endswith("/uploads") and request.answer(413, {})

    with serving(fault, upstream=oxen_server.host) as server:
        url = f"http://{server.host}/refusing/samples-{strict}"
        experiment(project, url, strict=strict)
        with pytest.raises(SystemExit) if strict else nullcontext():
            publish()
    said = capsys.readouterr()
    line = said.err.removeprefix("error: publish.repo: ") if strict else said.out
    assert line.startswith("8 samples as ")
    assert f": never to be sent ({url}: the server answers 413): remove " in line
    assert waiting() == [url]


def test_what_waited_is_sent_in_order_and_once_when_the_server_is_back(
    project, own_oxen_server, capfd
):
    server = own_oxen_server
    url = server.url("away", "samples")
    server.kill()
    for seed in range(2):
        experiment(project, url, seed)
        publish()
    # What waits keeps its address, whatever params.yaml says by now.
    experiment(project, "elsewhere", seed=2)
    publish()
    assert waiting() == [url, url]
    server.restart()
    experiment(project, url, seed=3)
    capfd.readouterr()
    publish()
    said = capfd.readouterr().out
    assert said.startswith("sent 2 that waited in ")
    assert "published 8 samples as " in said
    assert waiting() == []
    assert flush() == (0, "nothing waits to be sent\n")
    head = committed(url)
    assert len([path for path in head if path.startswith("samples/")]) == 3
    publish()
    assert "nothing new to publish" in capfd.readouterr().out
    assert committed(url) == head
    messages = [text for _, text in open_repository(url, PATIENCE)._api.log("main", 10)]
    assert len([text for text in messages if text.startswith("Samples")]) == 3


@pytest.mark.slow
def test_a_server_killed_in_the_middle_gets_all_of_it_once_after_its_restart(
    project, own_oxen_server
):
    server = own_oxen_server
    url = server.url("killed", "samples")
    experiment(project, url)
    publish()
    for seed, seconds in ((1, 0.0), (2, 0.02), (3, 0.1)):
        experiment(project, url, seed)
        process = start(project)
        while process.poll() is None and not waiting():
            pass
        time.sleep(seconds)
        server.kill()
        assert process.wait() == 0
        server.restart()
        publish()
        assert waiting() == []
        samples = [path for path in committed(url) if path.startswith("samples/")]
        assert len(samples) == seed + 1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "server"])
def test_two_pipelines_publish_at_once_ten_times(project, request, where):
    if where == "server":
        repo = request.getfixturevalue("oxen_server").url("at-once", "samples")
    else:
        repo = str(project / "published")
    code = (
        "import sys; from pathlib import Path; import test_publish_away as t\n"
        "for n in range(10):\n"
        "    t.experiment(Path('.'), sys.argv[1], int(sys.argv[2]) + n); t.publish()\n"
    )
    both = []
    for name, first in (("one", 0), ("two", 100)):
        folder = project / name
        folder.mkdir()
        environment = os.environ | {
            "DVC_ROOT": str(project if where == "local" else folder),
            "PYTHONPATH": os.pathsep.join(
                map(str, (PROJECT, PROJECT / "tests", PROJECT / "tests/stages"))
            ),
        }
        command = [sys.executable, "-c", code, repo, str(first)]
        both.append(subprocess.Popen(command, cwd=folder, env=environment))
    assert [process.wait() for process in both] == [0, 0]
    repository = open_repository(repo, PATIENCE)
    head = repository.resolve("main")
    files = {e.path: e.path for e in repository.entries(head) if e.path.endswith(".parquet")}
    repository.fetch(head, files, project / "fetched")
    runs = [parquet.read_table(path) for path in (project / "fetched/runs").glob("*")]
    samples = [parquet.read_table(path) for path in (project / "fetched/samples").glob("*")]
    assert len(runs) == len(samples) == 20
    seeds = sorted(json.loads(run["params"][0].as_py())["sample.seed"] for run in runs)
    assert seeds == [*range(10), *range(100, 110)]
    assert {len(table) for table in samples} == {8}


def test_the_checkpoint_goes_with_it_where_that_is_asked_for(project, capfd):
    experiment(project, "published")
    Path("artifacts/checkpoint/config.json").write_text("{}")
    publish()
    experiment(project, "published", checkpoint=True)
    publish()
    assert capfd.readouterr().out.count("published 8 samples as ") == 2
    [folder] = Path("published/checkpoints").iterdir()
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    publish()
    assert "nothing new to publish" in capfd.readouterr().out


def killed_and_published(project: Path, url: str, seed: int) -> None:
    """Kill -9 a publisher some time after it touched the spool, then run it again."""
    experiment(project, url, seed)
    kill_after(
        start(project),
        lambda: any(project.glob(".store/spool/*/.*")),
        random.Random(seed).uniform(0, 0.15),
    )
    publish()
    assert waiting() == []


@pytest.mark.parametrize("num", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_publishers_leave_one_set_of_rows_each_on_a_server(project, oxen_server, num):
    url = oxen_server.url("killed-publishers", f"samples-{num}")
    for seed in range(num):
        killed_and_published(project, url, seed)
    samples = [path for path in committed(url) if path.startswith("samples/")]
    assert len(samples) == num
    log = open_repository(url, PATIENCE)._api.log("main", 100)
    messages = [text for _, text in log if text.startswith("Samples")]
    assert len(messages) == len(set(messages)) == num
