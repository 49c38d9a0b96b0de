"""Two hosts, each in a network namespace of its own, that share a disk and train together."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from tiny_project import PROJECT, TINY, stage_command, write_params

pytestmark = pytest.mark.slow

HOSTS = ("ranks-a", "ranks-b")
PLACE = "10.77.0.{}"
TIMEOUT = 5
INPUTS = ("artifacts/packed", "artifacts/tokenizer")
OUTS = ("artifacts/checkpoint", "artifacts/snapshots.jsonl", "artifacts/runs/train.json")
VALUES = TINY | {"train.accumulate": 2, "baseline.accumulate": 2, "train.num_steps": 200}
BOTH = VALUES | {
    "resources.nodes": 2,
    "resources.launcher": "env",
    "resources.timeout_seconds": TIMEOUT,
}


def ip(*arguments: str, check: bool = True) -> bool:
    command = ["ip", *arguments]
    return subprocess.run(command, check=check, capture_output=True).returncode == 0


@pytest.fixture
def hosts():
    """The names of two, joined by a cable."""
    if shutil.which("ip") is None or not ip("netns", "add", HOSTS[0], check=False):
        pytest.skip("needs `ip netns`, and the right to use it")
    ip("netns", "add", HOSTS[1])
    try:
        ip("link", "add", "cable", "netns", HOSTS[0], "type", "veth", "peer", "cable", "netns",
           HOSTS[1])  # fmt: skip
        for number, host in enumerate(HOSTS):
            address = f"{PLACE.format(number + 1)}/24"
            ip("-n", host, "address", "add", address, "dev", "cable")
            ip("-n", host, "link", "set", "cable", "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield HOSTS
    finally:
        for host in HOSTS:
            ip("netns", "delete", host)


def on(hosts: tuple[str, ...]) -> "list[subprocess.Popen[str]]":
    """A rank on each host."""
    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": PLACE.format(1), "MASTER_PORT": "29500"}
    command = stage_command("train", *INPUTS, *OUTS, "reports/loss.csv")
    return [
        subprocess.Popen(
            ["ip", "netns", "exec", host, *command],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | meet
            | {"PYTHONPATH": str(PROJECT), "RANK": str(rank), "GLOO_SOCKET_IFNAME": "cable"},
        )
        for rank, host in enumerate(hosts)
    ]


def written() -> list[bytes]:
    files = (Path("artifacts/checkpoint/model.safetensors"), Path("reports/loss.csv"))
    return [path.read_bytes() for path in files]


def test_two_hosts_train_together_and_one_goes_on_when_the_other_is_cut_off(tiny, hosts, run_stage):
    write_params(tiny, VALUES)
    done = run_stage("train", *INPUTS, *OUTS, "reports/loss.csv")
    assert done.returncode == 0, done.stderr
    expected = written()

    write_params(tiny, BOTH)
    for rank in reversed(on(hosts)):
        _, errors = rank.communicate(timeout=60)
        assert rank.returncode == 0, errors
    assert written() == expected

    ranks = on(hosts)
    while not list(Path(".store/train").glob("train-*/state.pt")):
        assert ranks[0].poll() is None
        time.sleep(0.02)
    ip("-n", hosts[1], "link", "set", "cable", "down")
    for rank in ranks:
        _, errors = rank.communicate(timeout=2 * TIMEOUT + 30)
        assert rank.returncode == 1
        (line,) = [line for line in errors.splitlines() if "error" in line]
        assert line == f"error: a rank was silent for {TIMEOUT} s (resources.timeout_seconds)"

    write_params(tiny, VALUES)
    done = run_stage("train", *INPUTS, *OUTS, "reports/loss.csv")
    assert done.returncode == 0, done.stderr
    assert "| 0/200 " not in done.stderr
    assert written() == expected
