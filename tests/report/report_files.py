"""A small experiment on disk, as the stages before the report leave it, with awkward texts."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.report.experiment import Experiment
from pipeline.report.inputs import read_experiment

NAMES = [
    "Aubriella",
    "Jamarion",
    "Kenslee",
    "Mariska",
    "Tobiah",
    "Deshanna",
    "Elowen",
    "Rosalba",
    "Kyndell",
    "Averie",
    "Jovani",
    "Lisbet",
    "Marquell",
    "Shaniya",
    "Braxten",
    "Coralie",
    "Danthony",
    "Emmalyn",
    "Faizan",
    "Giuliana",
    "Hollis",
    "Ismael",
    "Jorja",
    "Kaleb",
    "Luella",
    "Makenzi",
    "Nyasia",
    "Oaklynn",
    "Presley",
    "Quinlan",
    "Raelynn",
    "Sharonda",
    "Tavion",
    "Ursula",
    "Vivienne",
    "Wrenley",
]
# Shown first, so that they reach the page whatever the number of samples.
AWKWARD = [
    "<script>alert(1)</script>",
    "",
    "Jo<pad>hn<unk>",
    'O\'Neil "Q" & Söhne',
    "</script><!--",
    "{{ 7 * 7 }}",
]
STEP_COUNTS = (1, 4, 16, 64, 128)
LENGTH = 16
SCORER = {"name": "baseline", "sha256": "5c0e" * 16, "precision": "float32"}


def write_experiment(root: Path, step_counts: tuple[int, ...] = STEP_COUNTS) -> None:
    """Write artifacts/ and reports/ under `root`; the largest step count is `steps`."""
    draw = random.Random(0)
    _write_data(root / "artifacts")
    _write_training(root, draw)
    for num_steps in step_counts:
        folder = folder_of(root, num_steps, max(step_counts))
        _write_samples(folder / "samples", num_steps, draw)
        write_json(folder / f"scores/{num_steps}.json", scores(num_steps))
    write_json(root / "artifacts/scores/real_text.json", real_text())
    write_json(root / "reports/likelihood.json", likelihood())


def write_temperatures(root: Path, temperatures: Sequence[float]) -> None:
    """Add samples at the largest step count and other temperatures, the coldest the likeliest."""
    for value in temperatures:
        folder, name = root / "artifacts/sweep", f"temperature-{value}"
        _write_samples(folder / "samples", STEP_COUNTS[-1], random.Random(1), name=name)
        at = scores(STEP_COUNTS[-1])
        cooled = {"gen_ppl": at["gen_ppl"] * value, "entropy": at["entropy"] + 0.1 * (value - 1)}
        write_json(folder / f"scores/{name}.json", at | cooled)


def folder_of(root: Path, num_steps: int, steps: int = STEP_COUNTS[-1]) -> Path:
    """Where samples and scores of a step count stand."""
    return root / ("artifacts" if num_steps == steps else "artifacts/sweep")


def read(root: Path, step_counts: Sequence[int] = STEP_COUNTS, **sweeps: Any) -> Experiment:
    """The experiment under `root`."""
    steps = max(step_counts)
    sweep = [n for n in step_counts if n != steps]
    return read_experiment(root / "artifacts", root / "reports", steps=steps, sweep=sweep, **sweeps)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def scores(num_steps: int) -> dict[str, Any]:
    """Scores that get better with steps; the empty sample is left out."""
    gen_ppl = 11.2 + 38 / num_steps**0.7
    figures = {
        "gen_ppl": gen_ppl,
        "gen_ppl_mean_of_exp": gen_ppl * 1.3,
        "entropy": 2.83 + 0.2 / num_steps,
        "entropy_per_sample": 1.71,
        "entropy_per_sample_bits": 2.467,
        "distinct_1": 0.058,
        "distinct_2": 0.402,
        "distinct_3": 0.814,
        "rep_4": 0.012,
        "self_bleu": 0.231,
        "uniqueness": 0.9922,
        "novelty": 0.71,
        "held_out": 0.0234,
        "well_formed": 1 - 0.5 / num_steps,
        "invalid_utf8": 0.25 / num_steps,
    }
    errors = {f"{name}_stderr": value * 0.03 for name, value in figures.items()}
    figures |= {"gen_ppl_sedd": None, "gen_ppl_mdlm": None}
    return {
        "num_steps": num_steps,
        "num_samples": 128,
        "num_scored": 127,
        "excluded": [1],
        "num_tokens": 900,
        "scorer": SCORER,
        "nfe": num_steps * 0.6 + 1,
        **figures,
        **errors,
    }


def real_text() -> dict[str, Any]:
    """Scores of held-out texts."""
    better = {"gen_ppl": 7.81, "gen_ppl_stderr": 0.31, "entropy": 2.795, "entropy_stderr": 0.014}
    whole = {"novelty": 1.0, "held_out": 1.0, "well_formed": 1.0, "excluded": [], "num_scored": 128}
    return scores(64) | better | whole | {"num_steps": None, "nfe": 0}


def likelihood() -> dict[str, Any]:
    """A bound and a baseline in the usual range."""
    return {
        "bound_nats_per_char": 2.2391,
        "bound_stderr": 0.0088,
        "bound_mc_stderr": 0.0021,
        "bound_data_stderr": 0.0085,
        "bound_bits_per_char": 2.2391 / math.log(2),
        "bound_nats_per_token": 2.2402,
        "bound_nats_per_token_stderr": 0.0089,
        "bound_perplexity_per_token": math.exp(2.2402),
        "bound_bits_per_byte": 3.7351,
        "bound_nats_per_block": 16.56,
        "baseline_nats_per_char": 2.0613,
        "baseline_stderr": 0.0079,
        "baseline_bits_per_char": 2.0613 / math.log(2),
        "baseline_nats_per_token": 2.0624,
        "baseline_nats_per_token_stderr": 0.0081,
        "baseline_perplexity_per_token": math.exp(2.0624),
        "baseline_bits_per_byte": 3.4386,
        "baseline_nats_per_block": 15.24,
        "gap_nats_per_char": 0.1778,
        "gap_stderr": 0.0034,
        "terms": {"integral": 16.55, "prior": 0.0, "reconstruction": 0.01},
        "num_texts": 5212,
        "num_texts_of": 5212,
        "num_tokens": 38528,
        "num_chars": 38547,
        "num_bytes": 33335,
        "num_replicates": 16,
        "num_draws": 2,
    }


def _write_data(artifacts: Path) -> None:
    provenance = {
        "repo": "bundled",
        "revision": "98717ad1" * 8,
        "commit": "98717ad1" * 8,
        "files": [
            {"path": "train.parquet", "size": 765432, "sha256": "a1b2" * 16, "rows": 99607},
            {"path": "test.parquet", "size": 40123, "sha256": "c3d4" * 16, "rows": 5212},
        ],
        "overlap": {"num_held_out": 5212, "num_in_train": 37},
    }
    meta = {
        "dtype": "uint16",
        "length": LENGTH,
        "mode": "pad",
        "vocab_size": 55,
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "num_blocks": {"train": 99607, "test": 5212},
        "num_unknown": {"train": 0, "test": 3},
        "unknown": {"train": {}, "test": {"é": 2, "<": 1}},
        "tokenizer_sha256": "e5f6" * 16,
    }
    config = {
        "graph": "absorb",
        "noise": "loglinear",
        "parameterization": "conditional",
        "vocab_size": 55,
        "length": LENGTH,
        "width": 128,
        "num_blocks": 4,
        "num_heads": 4,
        "cond_dim": 128,
        "dropout": 0.0,
        "eps": 0.001,
    }
    write_json(artifacts / "provenance.json", provenance)
    write_json(artifacts / "packed/meta.json", meta)
    write_json(artifacts / "checkpoint/config.json", config)


def _write_training(root: Path, draw: random.Random) -> None:
    run = {
        "num_params": 801975,
        "num_tokens": 4096000,
        "num_steps": 1000,
        "seconds": 212.4,
        "tokens_per_second": 19284.4,
        "device": "cpu",
        "torch": "2.13.0+cpu",
        "lock_sha256": "1f0c" * 16,
        "sha256": "0123" * 16,
    }
    write_json(root / "artifacts/runs/train.json", run)
    baseline = run | {"num_params": 803072, "num_tokens": 3276800, "num_steps": 800}
    write_json(root / "artifacts/runs/baseline.json", baseline | {"sha256": SCORER["sha256"]})
    snapshots = [
        {
            "step": step,
            "loss": 17 + 600 / step,
            "eval_loss": None if step == 200 else 17.1 + 600 / step,
            "texts": [*AWKWARD[:3], *draw.sample(NAMES, 5)],
        }
        for step in range(200, 1001, 200)
    ]
    write_rows(root / "artifacts/snapshots.jsonl", snapshots)
    for name, floor, last in (("loss", 16.6, 1000), ("baseline_loss", 15.1, 800)):
        lines = ["step,train_loss,eval_loss,lr"]
        for step in range(10, last + 1, 10):
            clean = floor + 42 * math.exp(-step / 25) + 60 / (step + 10)
            held_out = f"{clean + 0.15:.4f}" if step % 200 == 0 else ""
            lines.append(f"{step},{clean + draw.gauss(0, 0.35):.4f},{held_out},0.002")
        path = root / f"reports/{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def _write_samples(
    folder: Path, num_steps: int, draw: random.Random, name: str | None = None
) -> None:
    name = name or str(num_steps)
    texts = [*AWKWARD, *draw.sample(NAMES, 30)]
    rows = [
        {"index": i, "num_steps": num_steps, "seed": 0, "text": text, "ids": [0] * LENGTH, "nfe": 3}
        for i, text in enumerate(texts)
    ]
    write_rows(folder / f"{name}.jsonl", rows)
    traced = [_states(text, num_steps, draw) for text in texts[2:8]]
    write_json(folder / f"{name}.trace.json", {"num_steps": num_steps, "samples": traced})
    timing = {
        "num_steps": num_steps,
        "num_samples": 128,
        "seconds": 0.05 * min(num_steps, LENGTH),
        "samples_per_second": 128 / (0.05 * min(num_steps, LENGTH)),
        "device": "cpu",
        "calls": min(num_steps, LENGTH) + 1,
    }
    write_json(folder / f"{name}.timing.json", timing)


def _states(text: str, num_steps: int, draw: random.Random) -> list[dict[str, Any]]:
    """From all masks to the text; each position appears at a time of its own."""
    end = (text + "⏎").ljust(LENGTH, "·")[:LENGTH]
    times = [1 - k / num_steps for k in range(num_steps + 1)]
    shown_at = [draw.random() for _ in end]
    return [
        {
            "t": t,
            "text": "".join(
                c if t <= at or t == 0 else "░" for c, at in zip(end, shown_at, strict=True)
            )
            if t < 1
            else "░" * LENGTH,
        }
        for t in times
    ]
