"""A short run of the pipeline, and the SHA-256 of what it writes.

`python tests/short_run.py` compares with what tests/golden/short_run.json keeps, file by file;
`--write` keeps this run instead. Bytes are equal on one kind of processor with one PyTorch; the
losses, which are kept too, are nearly so everywhere.
"""

import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tiny_project import PROJECT, TINY, stage_command, write_params

KEPT = PROJECT / "tests" / "golden" / "short_run.json"
VARIANTS: dict[str, dict[str, Any]] = {
    "conditional": {},
    "raw": {"diffusion.absorb.parameterization": "raw", "diffusion.noise": "geometric"},
    "uniform": {"diffusion.graph": "uniform", "model.dropout": 0.1},
    "running text": {"pack.mode": "concat", "tokenizer.kind": "bpe", "tokenizer.vocab_size": 300},
}
STEPS = (1, 4, 16, 64, 128)
WALL_CLOCK = ("seconds", "per_second")
TIMED = ("artifacts/provenance.json", "reports/by_steps.csv")


def folder_of(num_steps: int) -> str:
    """Where samples and scores of a step count are: of `steps`, or of the sweep."""
    return "artifacts" if num_steps == STEPS[-1] else "artifacts/sweep"


def run(folder: Path, changes: dict[str, Any], last: str = "report") -> None:
    """Every stage up to the `last`, in `folder`."""
    write_params(folder, TINY | changes)
    packed, text, model = "artifacts/packed", "artifacts/tokenizer", "artifacts/checkpoint"
    baseline, scores = "artifacts/baseline", "artifacts/scores"
    train = "artifacts/checkpoint artifacts/snapshots.jsonl artifacts/runs/train.json"
    commands = [
        ("fetch", "artifacts/data artifacts/provenance.json"),
        ("tokenizer", f"artifacts/data {text}"),
        ("pack", f"artifacts/data {text} {packed}"),
        ("train", f"{packed} {text} {train} reports/loss.csv"),
        ("baseline", f"{packed} {text} {baseline} artifacts/runs/baseline.json "
                     "reports/baseline_loss.csv"),
        ("evaluate", f"{model} {baseline} {packed} reports/likelihood.json"),
        ("real_text", f"{text} {packed} {baseline} {scores}/real_text.json"),
        *[("sample", f"{n} {model} {text} {folder_of(n)}/samples") for n in STEPS],
        *[("score", f"{folder_of(n)}/samples/{n}.jsonl artifacts/data {text} {packed} {baseline} "
                    f"{folder_of(n)}/scores/{n}.json") for n in STEPS],
        ("report", "artifacts reports"),
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": str(PROJECT),
        "DVC_ROOT": str(folder),
        "OXEN_CONFIG_DIR": str(folder / "no configuration"),
        "OMP_NUM_THREADS": "1",
    }
    for name, arguments in commands:
        subprocess.run(
            stage_command(name, *arguments.split()),
            cwd=folder,
            env=environment,
            check=True,
            capture_output=True,
        )
        if name == last:
            return


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that a run of the same bytes repeats, by path."""
    found = {}
    for path in sorted([*folder.glob("artifacts/**/*"), *folder.glob("reports/*")]):
        name = path.relative_to(folder).as_posix()
        by_time = name.startswith("artifacts/runs/") or name.endswith(("timing.json", ".html"))
        # A provenance names the seeded commit, which holds a time.
        if (
            path.is_dir()
            or by_time
            or name in ("artifacts/provenance.json", "reports/by_steps.csv")
        ):
            continue
        content = path.read_bytes()
        if name == "reports/results.json":
            content = json.dumps(_without_wall_clock(json.loads(content))).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def losses(folder: Path) -> list[float]:
    """The training losses of a run, nats a block."""
    with (folder / "reports" / "loss.csv").open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]]


def machine() -> dict[str, str]:
    """What bytes may depend on beside the code."""
    return {"torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability()}


def _without_wall_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_wall_clock(v) for k, v in value.items() if not k.endswith(WALL_CLOCK)}
    return [_without_wall_clock(each) for each in value] if isinstance(value, list) else value


def main() -> None:
    """Run every variant; compare or write."""
    now: dict[str, Any] = {"machine": machine(), "runs": {}}
    for name, changes in VARIANTS.items():
        with tempfile.TemporaryDirectory() as scratch:
            run(Path(scratch), changes)
            now["runs"][name] = {"losses": losses(Path(scratch)), "sha256": hashes(Path(scratch))}
    if "--write" in sys.argv:
        KEPT.write_text(json.dumps(now, indent=1) + "\n")
        return
    kept = json.loads(KEPT.read_text())
    print(f"kept on {kept['machine']}, now on {now['machine']}")
    differ = False
    for name, found in now["runs"].items():
        before = kept["runs"][name]["sha256"]
        wrong = sorted(set(before.items()) ^ set(found["sha256"].items()))
        differ |= bool(wrong)
        said = f"{sorted({path for path, _ in wrong})} differ" if wrong else "all equal"
        print(f"{name}: {len(before)} files, {said}")
    raise SystemExit(differ)


if __name__ == "__main__":
    main()
