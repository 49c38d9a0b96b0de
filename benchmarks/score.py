"""Scoring samples of mixed lengths with a causal model of GPT-2's smallest size."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.flops import Shape
from benchmarks.machine import Machine
from benchmarks.measure import Facts, Measured, Side, Step, interleaved
from benchmarks.plain_text import plain_score
from benchmarks.rows import Check, Plan, Row, at_least, floor_text, rate
from benchmarks.shapes import GPT2_VOCAB
from pipeline.device import has_bfloat16
from pipeline.evaluation.gen_ppl import likelihood
from pipeline.evaluation.samples import Floats, Ints, Samples
from pipeline.evaluation.scorer import Scorer, load_scorer
from pipeline.kernels.precision import Precision

NUM = 32
QUICK_NUM = 12
BATCH = 64
LONGEST = 256
SHORTEST = 16
EOS = GPT2_VOCAB - 1
WEIGHTS = 124_439_808
"""Of GPT-2's smallest model, its embedding shared with the head."""


def texts_of(num: int) -> list[list[int]]:
    """Token ids of mixed lengths up to the longest, each with its eos."""
    random = np.random.default_rng(0)
    lengths = [LONGEST, *random.integers(SHORTEST, LONGEST, size=num - 1)]
    return [[*random.integers(EOS, size=length - 1).tolist(), EOS] for length in lengths]


def model_of() -> Any:
    """A model of GPT-2's smallest size with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config())
    return model.eval()


def plain(num: int) -> Step:
    """One text after another."""
    model, texts = model_of(), texts_of(num)
    plain_score(model, texts[:1], EOS)
    return lambda: {"nats": plain_score(model, texts, EOS).tolist()}


def scorer_of(precision: Precision) -> Scorer:
    """The same model as the product loads one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_of().save_pretrained(folder)
        (folder / "tokenizer.json").write_text("ids alone", encoding="utf-8")
        return load_scorer(
            "baseline",
            baseline=folder,
            tokenizer="ids alone",
            start_id=EOS,
            device=torch.device("cpu"),
            precision=precision,
        )


def samples_of(texts: list[list[int]]) -> Samples:
    """The texts as the product holds them, filled with eos."""
    ids = np.full((len(texts), LONGEST), EOS)
    for row, tokens in enumerate(texts):
        ids[row, : len(tokens)] = tokens
    num = len(texts)
    return Samples(None, np.arange(num), ids, [""] * num, np.zeros(num))


def ours(num: int, precision: Precision) -> Step:
    """The product's scoring."""
    scorer = scorer_of(precision)

    def run(texts: list[list[int]]) -> Facts:
        scored = likelihood(scorer, samples_of(texts), eos_id=EOS, batch_size=BATCH)
        return {"nats": scored.nats.tolist()}

    texts = texts_of(num)
    run(texts[:2])
    return lambda: run(texts)


def flops(texts: list[list[int]]) -> float:
    """Operations that the texts need: each at its own length, with the head at every position."""
    shapes = [
        Shape(width=768, num_blocks=12, num_outputs=GPT2_VOCAB, length=len(text), cond_dim=None)
        for text in texts
    ]
    return sum(shape.forward(1) for shape in shapes)


def score_gpt2(plan: Plan, machine: Machine) -> list[Row]:
    """The rows score_gpt2, which is in float32, and score_gpt2_bf16."""
    num = plan.runs(NUM, QUICK_NUM)
    texts = texts_of(num)
    sides = {
        "plain": Side("benchmarks.score:plain", {"num": num}),
        "float32": Side("benchmarks.score:ours", {"num": num, "precision": "float32"}),
    }
    if has_bfloat16(torch.device("cpu")):
        sides["bfloat16"] = Side("benchmarks.score:ours", {"num": num, "precision": "bfloat16"})
    found = interleaved(sides, plan.runs(5, 1), warm_up=not plan.quick, on_run=plan.on_run)
    plain, ours = found["plain"], found["float32"]
    num_tokens = np.array([len(text) for text in texts])
    apart = nats_apart(plain, ours, num_tokens)
    largest = float(np.abs(apart).max())
    rows = [
        row_of(
            "score_gpt2", texts, plain, ours, machine, 1.2,
            Check("same numbers to 1e-4", largest <= 1e-4),
            f"a text's mean nats differ by at most {largest:.1e}",
        )
    ]  # fmt: skip
    if "bfloat16" not in found:
        note = "not run: this processor has no bfloat16 instructions"
        return [*rows, Row("score_gpt2_bf16", "samples/s", notes=(note,))]
    narrow = found["bfloat16"]
    mean = abs(float(nats_apart(plain, narrow, num_tokens) @ num_tokens / num_tokens.sum()))
    check = Check("mean within 5e-3 nats", mean <= 5e-3)
    note = f"mean nats a token differ by {mean:.1e}"
    return [*rows, row_of("score_gpt2_bf16", texts, plain, narrow, machine, 3, check, note)]


def nats_apart(plain: Measured, ours: Measured, num_tokens: Ints) -> Floats:
    """Difference of each text's mean nats a token [N]."""
    difference: Floats = np.array(ours.facts["nats"]) - np.array(plain.facts["nats"])
    return difference / num_tokens


def row_of(
    name: str,
    texts: list[list[int]],
    plain: Measured,
    ours: Measured,
    machine: Machine,
    bar: float,
    same: Check,
    note: str,
) -> Row:
    """A row of samples a second."""
    needed, num = flops(texts), len(texts)
    return Row(
        name,
        "samples/s",
        (at_least(plain.median / ours.median, bar), same),
        ours=rate(ours, num, machine, needed),
        plain=rate(plain, num, machine, needed),
        floor=floor_text(machine, needed, 4 * WEIGHTS, ours.median),
        notes=(f"{num} texts, {sum(map(len, texts)):,} tokens; {note}",),
    )
