"""The bound on running text at the published small size, with the paper's own score."""

import torch

from benchmarks.machine import Machine
from benchmarks.measure import Facts, Side, Step, interleaved
from benchmarks.plain import plain_bound, plain_model
from benchmarks.rows import Check, Plan, Row, at_least, floor_text, rate
from benchmarks.shapes import config_of, perturbed, shape_of
from pipeline.methods.sedd.bound import draw_bound
from pipeline.methods.sedd.model import SEDD

NUM_DRAWS = 2
BATCH = 1


def texts(num: int) -> torch.Tensor:
    """Blocks [N, L] of random tokens."""
    config = config_of("small", "raw")
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (num, config.length), generator=generator)


def plain(num: int) -> Step:
    """Scores of every position and state kept, the last step's weights too."""
    model = perturbed(plain_model(config_of("small", "raw"))).eval()
    x0 = texts(num)

    def run() -> Facts:
        generator = torch.Generator().manual_seed(0)
        return {"nats": plain_bound(model, x0, NUM_DRAWS, BATCH, generator).tolist()}

    return run


def ours(num: int) -> Step:
    """The product's bound, every term of it."""
    model = perturbed(SEDD(config_of("small", "raw"))).eval()
    x0 = texts(num)

    def run() -> Facts:
        bound = draw_bound(
            model, x0, num_replicates=1, num_draws=NUM_DRAWS, batch_size=BATCH, seed=0
        )
        return {"nats": bound.total[0].tolist()}

    return run


def bound_small(plan: Plan, machine: Machine) -> list[Row]:
    """The row bound_small, with the memory of twice as many blocks."""
    num = plan.runs(2, 1)
    sides = {
        "plain": Side("benchmarks.bound:plain", {"num": num}),
        "ours": Side("benchmarks.bound:ours", {"num": num}),
        "twice": Side("benchmarks.bound:ours", {"num": 2 * num}),
    }
    found = interleaved(sides, plan.runs(2, 1), warm_up=False, on_run=plan.on_run)
    plain, ours, twice = found["plain"], found["ours"], found["twice"]
    config = config_of("small", "raw")
    num_tokens, calls = num * config.length, num // BATCH * (NUM_DRAWS + 1)
    shape = shape_of(config)
    done = num * (NUM_DRAWS + 1) * shape.forward(1)
    # Of masks alone: half of the positions in a draw, hardly any in the last step.
    at_masks = NUM_DRAWS * shape.forward(1, num_tokens / num / 2) + shape.forward(1, 1)
    needed = num * at_masks
    with torch.device("meta"):
        weights = sum(p.nbytes for p in SEDD(config).parameters())
    means = [torch.tensor(each.facts["nats"]).mean().item() for each in (plain, ours)]
    growth = twice.peak_mb / ours.peak_mb
    return [
        Row(
            "bound_small",
            "tokens/s",
            (
                at_least(plain.median / ours.median, 1.2),
                Check("memory flat in the number of blocks", growth < 1.1),
            ),
            ours=rate(ours, num_tokens, machine, needed),
            plain=rate(plain, num_tokens, machine, done),
            floor=floor_text(machine, needed, calls * weights, ours.median),
            notes=(
                f"{num} blocks of 1,024; twice as many: {growth:.2f}x the memory",
                f"nats a block, other noise on each side: {means[0]:.0f} and {means[1]:.0f}",
            ),
        )
    ]
