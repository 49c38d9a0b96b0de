"""Prints how far samplers are from their exact law and from the data, on the tests' toy problem.

PYTHONPATH=tests python tests/methods/sedd/toy_table.py
"""

import math

import torch
from chains import SAMPLERS, draw, given, n_step_law, small_support
from torch import Tensor
from toy import index_of, total_variation

from pipeline.methods.draws import FREE
from pipeline.methods.sedd.model import SEDD

NUM = 200_000
STEPS = (1, 4, 16, 64)


def exact_law(
    model: SEDD, p0: Tensor, num_steps: int, predictor: str, fixed: Tensor | None = None
) -> Tensor:
    """The law [K] that a sampler must follow."""
    if predictor == "first_hitting":
        return p0.flatten() if fixed is None else given(p0, fixed)
    return n_step_law(model, num_steps, predictor, fixed)


def expected_by_chance(law: Tensor, num: int) -> float:
    """Mean total variation between a law [K] and `num` draws from it, to first order."""
    return (law * (1 - law) / (2 * math.pi * num)).sqrt().sum().item()


def print_samplers() -> None:
    print(f"{NUM:,} samples each; total variation (TV); loglinear noise, where Euler's step and")
    print("the analytic one are the same with absorb\n")
    head = ("samples, law", "by chance", "law, data")
    print("| graph | score | sampler | steps | NFE |", " | ".join(f"TV {h}" for h in head), "|")
    print("|---|---|---|---|---|---|---|---|")
    for graph, parameterization, predictor in SAMPLERS:
        model, p0 = small_support(graph, parameterization, length=3)
        for num_steps in STEPS:
            law = exact_law(model, p0, num_steps, predictor)
            samples = draw(model, num_steps, predictor, num=NUM)
            counts = torch.bincount(index_of(samples.tokens, p0.shape[0]), minlength=len(law))
            columns = (
                f"{samples.nfe.double().mean():.3f}",
                f"{total_variation(counts / NUM, law):.4f}",
                f"{expected_by_chance(law, NUM):.4f}",
                f"{total_variation(law, p0.flatten()):.4f}",
            )
            print(
                f"| {graph} | {parameterization} | {predictor} | {num_steps} |",
                " | ".join(columns),
                "|",
            )


def print_infilling() -> None:
    print("\nThe last of three tokens fixed: TV between the law and the exact conditional\n")
    print("| graph | score | sampler |", " | ".join(f"{n} steps" for n in STEPS), "|")
    print("|---|---|---|---|---|---|---|")
    fixed = torch.tensor([FREE, FREE, 1])
    for graph, parameterization, predictor in SAMPLERS:
        model, p0 = small_support(graph, parameterization, length=3)
        distances = (
            total_variation(exact_law(model, p0, n, predictor, fixed), given(p0, fixed))
            for n in STEPS
        )
        columns = " | ".join(f"{distance:.4f}" for distance in distances)
        print(f"| {graph} | {parameterization} | {predictor} | {columns} |")


if __name__ == "__main__":
    print_samplers()
    print_infilling()
