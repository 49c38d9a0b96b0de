"""A made corpus of many short documents, from a real Oxen server to samples on it, by hand.

`python -m benchmarks.corpus 250000 1000000` takes each number of documents through the stages,
each a process of its own, and prints its seconds, those of a core, and the most memory it held;
`publish` is a `dvc repro` of all that comes after a training step.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.oxen_server import OxenServer, find_server
from pipeline.config.data import Patience
from pipeline.config.edits import edit_yaml
from pipeline.data.documents import documents_among
from pipeline.oxen.opening import open_repository

PROJECT = Path(__file__).parents[1]
PATIENCE = Patience(connect_seconds=10, stall_seconds=60, retries=4)
NUM_SHARDS, NUM_WORDS, WORDS_EACH = 80, 20_000, (4, 20)
SEARCHED = 1024
TINY: dict[str, Any] = {
    "device": "cpu",
    "data.files.train": "*.parquet",
    "data.files.test": None,
    "data.column": "text",
    "data.holdout": 0.05,
    "pack.length": 192,
    "model.width": 64,
    "train.num_steps": 1,
    "train.warmup_steps": 0,
    "train.eval_blocks": 64,
    "train.sample_num": 1,
    "train.sample_steps": 1,
    "steps": 4,
    "sweep": [],
    "sample.num": 16,
    "evaluate.num_texts": 64,
    "baseline.width": 16,
    "baseline.num_blocks": 1,
    "baseline.num_tokens": 64 * 192,
    "baseline.warmup_steps": 0,
    "baseline.eval_blocks": 64,
    "score.num_bootstrap": 20,
}
STAGES = {
    "check": "artifacts/checked.json artifacts/method.json artifacts/sweep/asked.json "
    "artifacts/zero_shot/sets-asked.json",
    "fetch": "artifacts/data artifacts/provenance.json",
    "tokenizer": "artifacts/data artifacts/tokenizer",
    "pack": "artifacts/data artifacts/tokenizer artifacts/packed",
    "train": "artifacts/packed artifacts/tokenizer artifacts/checkpoint artifacts/snapshots.jsonl "
    "artifacts/runs/train.json reports/loss.csv",
}
Taken = tuple[float, float, float]
"""Seconds, seconds of a core and megabytes of a process."""


def write_corpus(folder: Path, num: int) -> None:
    """`num` documents, no two the same, in NUM_SHARDS files."""
    generator = np.random.default_rng(0)
    letters = generator.choice(list("abcdefghijklmnopqrstuvwxyz"), (NUM_WORDS, 6))
    words = np.array(["".join(row) for row in letters])
    for shard, numbers in enumerate(np.array_split(np.arange(num), NUM_SHARDS)):
        texts = [
            f"{number} " + " ".join(words[generator.integers(NUM_WORDS, size=size)])
            for number, size in zip(
                numbers, generator.integers(*WORDS_EACH, size=len(numbers)), strict=True
            )
        ]
        pq.write_table(pa.table({"text": texts}), folder / f"{shard:03}.parquet")


def send(url: str, folder: str, commit: str) -> None:
    """Commit the files of a folder to a new repository, and write which commit it is."""
    files = {path.name: path for path in sorted(Path(folder).iterdir())}
    made = open_repository(url, PATIENCE, create=True).commit(files, "A made corpus")
    Path(commit).write_text(str(made), encoding="utf-8")


def search(packed: str) -> None:
    """Look for texts among the documents of the training split."""
    found = documents_among(map(str, range(SEARCHED)), Path(packed), "train")
    assert not found


def measured(folder: Path, *command: str) -> Taken:
    """What a process of this Python takes.

    Raises:
        RuntimeError: it fails.
    """
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "DVC_ROOT": str(folder)}
    environment["OXEN_CONFIG_DIR"] = str(folder / "config")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    started = time.perf_counter()
    at = ["env", f"--chdir={folder}", sys.executable, *command]
    _, status, usage = os.wait4(os.spawnvpe(os.P_NOWAIT, at[0], at, environment), 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    of_core = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - started, of_core, usage.ru_maxrss / 1e3


def through(server: OxenServer, folder: Path, num: int) -> Iterator[tuple[str, Taken]]:
    """What each process took, as they end."""
    (folder / "corpus").mkdir()
    write_corpus(folder / "corpus", num)
    url, commit = server.url("made", f"corpus-{num}"), folder / "commit"
    here = "import benchmarks.corpus as made, sys; getattr(made, sys.argv[1])(*sys.argv[2:])"
    yield "send", measured(folder, "-c", here, "send", url, str(folder / "corpus"), str(commit))
    for each in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / each, folder)
    for each in ("pipeline", "stages"):
        shutil.copytree(PROJECT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
    source = {"data.repo": url, "data.revision": commit.read_text(encoding="utf-8")}
    samples = {"publish.repo": server.url("made", f"samples-{num}"), "publish.strict": True}
    edit_yaml(folder / "params.yaml", TINY | source | samples)
    for stage, arguments in STAGES.items():
        yield stage, measured(folder, "-m", f"stages.{stage}", *arguments.split())
    yield "search", measured(folder, "-c", here, "search", str(folder / "artifacts/packed"))
    measured(folder, "-m", "dvc", "init", "--no-scm", "--quiet")
    shutil.copy(PROJECT / ".dvc/config", folder / ".dvc/config")
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    yield "dvc commit", measured(folder, "-m", "dvc", "commit", "--force", "--with-deps", "train")
    yield "dvc status", measured(folder, "-m", "dvc", "status", "--with-deps", "train")
    yield "publish", measured(folder, "-m", "dvc", "repro", "--quiet", "publish")
    yield "dvc status", measured(folder, "-m", "dvc", "status")


def main() -> None:
    binary = find_server()
    if binary is None:
        sys.exit("no oxen-server: see benchmarks/oxen_server.py")
    for num in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "server").mkdir()
            server = OxenServer(binary, Path(name) / "server")
            try:
                for what, (seconds, of_core, megabytes) in through(server, Path(name), num):
                    took = f"{seconds:8.1f} s {of_core:8.1f} s of a core {megabytes:8.0f} MB"
                    print(f"{num:>10,} {what:10} {took}", flush=True)
            finally:
                server.kill()


if __name__ == "__main__":
    main()
