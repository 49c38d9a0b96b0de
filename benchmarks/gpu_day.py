"""One GPU, measured: gradients, repeatability, training, sampling and memory, in order of value.

`make gpu-day` needs PyTorch and this repository alone. Every result is one line of JSON, written at
once, so that an end at any moment loses only what was not measured yet; docs/gpu.md has the table
that comes last as it is.
"""

import argparse
import hashlib
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.flops import TRAINING
from benchmarks.gpu_timing import Day, Step, measure, timed_calls
from benchmarks.plain import plain_draw, plain_weights
from benchmarks.plain_training import PlainTrainer, plain_loss
from benchmarks.shapes import Parameterization, config_of, perturbed, shape_of
from benchmarks.train import settings_of
from pipeline.device import is_of_memory
from pipeline.kernels.precision import Precision, products_in
from pipeline.methods.sedd.loss import ScoreEntropy
from pipeline.methods.sedd.model import SEDD
from pipeline.methods.sedd.reveal import masked_chances, place_reveals
from pipeline.methods.sedd.sampler import sample
from pipeline.training.gradient import accumulate_gradient, pieces_of
from pipeline.training.loop import Trainer
from pipeline.training.schedule import Order

VARIANTS: list[dict[str, Any]] = [
    {"graph": "absorb", "parameterization": "conditional"},
    {"graph": "absorb", "parameterization": "raw"},
    {"graph": "uniform", "parameterization": "raw"},
]


def environment(day: Day) -> None:
    """The chip: copying, and matrix products at the head's sizes among others."""
    label = torch.cuda.get_device_name() if day.on_gpu else "cpu"
    day.write("environment", torch=torch.__version__, device=label, cuda=torch.version.cuda)
    source = torch.ones(2**18 if day.tiny else 2**29, device=day.device)
    target = torch.empty_like(source)
    copied = day.milliseconds(lambda: target.copy_(source))
    day.write("environment", copy_tbps=2 * source.nbytes / copied / 1e9)
    side = 64 if day.tiny else 8192
    shapes = [(side, side, side), (side, 768, 50_257), (side, 768, 50_304)][: 1 if day.tiny else 3]
    for rows, inner, columns in shapes:
        left = torch.randn(rows, inner, device=day.device).bfloat16()
        right = torch.randn(columns, inner, device=day.device).bfloat16().T
        taken = day.milliseconds(lambda left=left, right=right: left @ right)  # type: ignore[misc]
        rate = 2 * rows * inner * columns / taken / 1e9
        day.write("environment", product=[rows, inner, columns], bf16_tflops=rate)


def gradients(day: Day) -> None:
    """Gradients on the device against float64 on the CPU, where the head has several tiles."""
    length, rows = (32, 2) if day.tiny else (256, 8)
    for variant in VARIANTS:
        config = replace(
            config_of("tiny" if day.tiny else "gpt2", "raw"),
            length=length, num_blocks=2, **variant,
        )  # fmt: skip
        torch.manual_seed(0)
        exact = perturbed(SEDD(config)).double()
        objective = ScoreEntropy(exact)
        x0 = torch.randint(config.vocab_size, (rows, length))
        drawn = objective.draw(x0, torch.Generator().manual_seed(2))
        loss = accumulate_gradient(objective, pieces_of(drawn, 1)).item()
        expected = {name: p.grad for name, p in exact.named_parameters() if p.grad is not None}
        for precision in ("float32", "bfloat16"):
            for how in ("eager", "checkpointing", "compiled"):
                if how == "compiled" and day.tiny:
                    continue
                day.clear()
                model = SEDD(config)
                model.load_state_dict(exact.state_dict())
                model.to(day.device).train()
                model.network.activation_checkpointing = how == "checkpointing"
                if how == "compiled":
                    model.network.compile_blocks()
                moved = tuple(each.to(day.device) for each in drawn)
                found = accumulate_gradient(
                    ScoreEntropy(model), pieces_of(moved, 1), precision
                ).item()
                errors = {
                    name: float((p.grad.cpu() - expected[name]).norm() / expected[name].norm())
                    for name, p in model.named_parameters()
                    if p.grad is not None and name in expected
                }
                worst = max(errors, key=lambda name: errors[name])
                day.write(
                    "gradients", variant=" ".join(variant.values()), precision=precision,
                    how=how, loss_error=abs(found / loss - 1), worst=worst,
                    worst_error=errors[worst],
                )  # fmt: skip


def same_bytes(day: Day) -> None:
    """Whether two runs of a few steps end with the same weights."""
    for parameterization in ("conditional", "raw"):
        for deterministic in (False, True):
            found = set()
            for _ in range(2):
                day.clear()
                settings = {"deterministic": deterministic, "batch_size": 4}
                trained = Training(day, day.small, parameterization, False, **settings)
                for _ in range(3):
                    trained.step()
                parameters = trained.objective.module.parameters()
                weights = b"".join(each.detach().cpu().numpy().tobytes() for each in parameters)
                found.add(hashlib.sha256(weights).hexdigest()[:12])
            day.write(
                "same_bytes", parameterization=parameterization, deterministic=deterministic,
                distinct_of_2=len(found),
            )  # fmt: skip


class Training:
    """Our trainer on random tokens, a step at a time."""

    def __init__(
        self, day: Day, size: str, parameterization: Parameterization, compiled: bool | str,
        **settings: Any,
    ) -> None:  # fmt: skip
        config = config_of(size, parameterization)
        model = day.model(config)
        if compiled:
            model.network.compile_blocks(as_graphs=compiled == "graphs")
        precision = settings.pop("precision", "bfloat16")
        chosen = settings_of("gpt2", precision=precision, **{"batch_size": day.batch} | settings)
        self.objective = ScoreEntropy(model.train())
        self._trainer = Trainer(self.objective, chosen, day.device)
        num = 8 * chosen.batch_size
        random = np.random.default_rng(0)
        self._blocks = random.integers(config.vocab_size, size=(num, config.length), dtype="uint16")
        self._order = Order(num, 0)

    def step(self) -> None:
        """One optimiser step."""
        self._trainer.train_step(self._blocks, self._order)


def ours(
    day: Day, size: str, parameterization: Parameterization, compiled: bool | str = False,
    **settings: Any,
) -> Step:  # fmt: skip
    """A training step of the product."""
    return Training(day, size, parameterization, compiled, **settings).step


def plain(
    day: Day, size: str, parameterization: Parameterization, compiled: bool | str = False
) -> Step:
    """A plain training step: the head everywhere, scores kept, SDPA, bfloat16 by autocast."""
    config = config_of(size, parameterization)
    model = day.model(config, plain=True).train()
    if compiled:
        model.network.compile()
    settings = settings_of("gpt2", batch_size=day.batch)
    trainer = PlainTrainer(model, plain_loss(model), settings, "bfloat16")
    data = torch.randint(config.vocab_size, (day.batch, config.length), device=day.device)
    return lambda: trainer.train_step(data)


def training(day: Day) -> None:
    """Training steps of ours and of the plain formulation, there and back, and at medium size."""
    kinds: list[tuple[str, Parameterization, bool | str]] = [
        ("ours", "conditional", False), ("plain", "raw", False), ("ours", "raw", False),
    ]  # fmt: skip
    if not day.tiny:
        kinds += [("plain", "raw", True), ("ours", "conditional", True)]
        kinds += [("ours", "conditional", "graphs"), ("ours", "raw", True), ("plain", "raw", False)]
    for kind in kinds:
        _measure_training(day, day.small, *kind)
    for kind in kinds[:2]:
        _measure_training(day, day.medium, *kind, label="medium ")


def _measure_training(
    day: Day, size: str, side: str, parameterization: Parameterization, compiled: bool | str,
    label: str = "",
) -> None:  # fmt: skip
    config = config_of(size, parameterization)
    tokens = day.batch * config.length
    how = {False: "", True: " compiled", "graphs": " graphs"}[compiled]
    name = f"{side} {label}{parameterization}{how}"
    # Half of the positions are masked, whatever they are computed at.
    flops = TRAINING * shape_of(config).forward(day.batch, tokens / 2)
    make = {"ours": ours, "plain": plain}[side]
    try:
        measure(
            day, "training", name, lambda: make(day, size, parameterization, compiled), tokens,
            flops,
        )  # fmt: skip
    except RuntimeError as error:
        if not is_of_memory(error):
            raise
        day.write("training", name=name, skipped="out of memory")


def sampling(day: Day) -> None:
    """Seconds a sample: milliseconds a call times the calls that all steps need."""
    model = day.model(config_of(day.medium, "conditional")).eval()
    times = torch.linspace(1, 0, day.num_steps + 1, dtype=torch.float64)
    shape = day.num_drawn, model.length
    generator = torch.Generator().manual_seed(0)
    turn, _ = place_reveals(shape, masked_chances(model, times, "cached"), "cached", generator)
    precisions: tuple[Precision, ...] = ("bfloat16", "float32")
    if day.on_gpu:
        precisions = ("bfloat16", "tf32", "float32")
    for precision in precisions:
        day.clear()
        with (
            products_in(precision, day.device),
            timed_calls(day, model) as seen,
        ):
            sample(
                model, day.num_drawn, num_steps=day.num_steps, predictor="cached",
                generator=torch.Generator(day.device).manual_seed(0),
            )  # fmt: skip
        _write_calls(day, f"ours cached {precision}", seen, int(turn.max()) + 1)
    del model
    opponent = day.model(config_of(day.medium, "raw"), plain=True).eval()
    times = torch.linspace(1, opponent.t_min, day.num_steps + 1, dtype=torch.float64)
    times = times.to(day.device)
    for precision in precisions:
        day.clear()
        generator = torch.Generator(day.device).manual_seed(0)
        xt, seen = opponent.graph.sample_limit(shape, generator), []
        with torch.no_grad(), products_in(precision, day.device):
            for step in range(8):
                day.wait()
                seen.append(time.perf_counter())
                weights = plain_weights(opponent, xt, times[step], times[step + 1])
                xt = plain_draw(weights, generator)
            day.wait()
        _write_calls(day, f"plain raw {precision}", seen, day.num_steps + 1)


def _write_calls(day: Day, name: str, seen: list[float], calls: int) -> None:
    milliseconds = 1e3 * statistics.median(np.diff(seen[2:]).tolist())
    day.write(
        "sampling", name=name, ms_a_call=milliseconds, calls=calls,
        s_a_sample=milliseconds * calls / day.num_drawn / 1e3, peak_gb=day.peak_gb(),
    )  # fmt: skip


def names(day: Day) -> None:
    """The size of names, where starting kernels takes longer than running them."""
    size = "tiny" if day.tiny else "char"
    config = config_of(size, "conditional")
    tokens = 64 * config.length
    flops = TRAINING * shape_of(config).forward(64, tokens / 2)
    for compiled in (False,) if day.tiny else (False, True, "graphs"):
        name = {False: "eager", True: "compiled", "graphs": "graphs"}[compiled]

        def make(compiled: bool | str = compiled) -> Step:
            options: dict[str, Any] = {"batch_size": 64, "precision": "float32"}
            return ours(day, size, "conditional", compiled, **options)

        measure(day, "names", name, make, tokens, flops)
    day.clear()
    model, num = day.model(config).eval(), 2 if day.tiny else 128
    for _ in range(2):
        started = time.perf_counter()
        samples = sample(
            model, num, num_steps=day.num_steps, predictor="cached",
            generator=torch.Generator(day.device).manual_seed(0),
        )  # fmt: skip
        day.wait()
        seconds = time.perf_counter() - started
    day.write("names", name="sampling", samples_per_s=num / seconds, calls=samples.calls)


SECTIONS = (environment, training, sampling, gradients, same_bytes, names)


def table(day: Day) -> str:
    """What docs/gpu.md shows."""
    label = next(row["device"] for row in day.results if "device" in row)
    rate = max((row.get("bf16_tflops", 0.0) for row in day.results), default=0.0)
    lines = [f"{label}, batch {day.batch}, {rate:.0f} TFLOP/s in bfloat16", ""]
    lines += ["| training step | ms | tokens/s | of the matrix rate | peak GB | kernels | waits |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in (row for row in day.results if row["section"] in ("training", "names")):
        if "ms" in row:
            lines.append(
                f"| {row['name']} | {row['ms']:.1f} | {row['tokens_per_s']:,.0f} "
                f"| {row['tflops'] / rate:.0%} | {row['peak_gb'] or 0:.1f} "
                f"| {row.get('kernels', '–')} | {row.get('waits', '–')} |"
            )
    lines += ["", "| sampling | ms a call | calls | s a sample |", "|---|---|---|---|"]
    lines += [
        f"| {row['name']} | {row['ms_a_call']:.1f} | {row['calls']} | {row['s_a_sample']:.2f} |"
        for row in day.results
        if row["section"] == "sampling"
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the sections that time is left for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try it on a CPU")
    parser.add_argument("--only", default="", help="sections, by commas")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    parser.add_argument("--seconds", type=float, default=420, help="no section starts after these")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here: --device cpu --tiny tries the script itself")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    asked.out.mkdir(parents=True, exist_ok=True)
    day = Day(device, asked.tiny, asked.out)
    for section in SECTIONS:
        # The table is in shares of what the first one finds.
        wanted = section is environment or section.__name__ in asked.only.split(",")
        if asked.only and not wanted:
            continue
        if day.seconds() > asked.seconds:
            day.write(section.__name__, skipped="out of time")
            continue
        section(day)
    text = table(day)
    (asked.out / "gpu_day.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
