"""What samples are drawn by: the options given, and the project's values for the others."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.cli.options import MOST, check_range, params_here, pick_device_name, pick_seed
from pipeline.errors import ParamsError
from pipeline.methods.samplers import PLAIN, Conditioning, PredictorName, Stepping, values_of


@dataclass(frozen=True)
class Chosen:
    """Options of sampling, all with a value but a batch size that the model decides."""

    num_steps: int
    predictor: str
    temperature: float
    top_p: float
    stepping: Stepping
    conditioning: Conditioning
    seed: int
    batch_size: int | None
    device: str
    show_states: bool


def choose(
    steps: int | None,
    predictor: PredictorName | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    batch_size: int | None,
    device: str | None,
    show_states: bool,
    stepping: Mapping[str, Any],
    labels: list[str] | None = None,
    guidance: float = 1.0,
) -> Chosen:
    """Check what is given and take the rest from params.yaml of the working folder.

    `stepping` are fields of `Stepping`, which the model's method checks, as it does labels.

    Raises:
        ParamsError: a number is out of range, or no steps are given outside a project.
    """
    if steps is not None:
        check_range("--steps", steps, 1, MOST)
    if batch_size is not None:
        check_range("--batch-size", batch_size, 1, MOST)
    if temperature is not None and not 0 < temperature < math.inf:
        raise ParamsError(f"--temperature must be a number above 0 (got {temperature})")
    if top_p is not None and not 0 < top_p <= 1:
        raise ParamsError(f"--top-p must be above 0 and at most 1 (got {top_p})")
    given = (steps, predictor, temperature, top_p, *stepping.values())
    params = params_here() if None in given else None
    if steps is None:
        if params is None:
            raise ParamsError("how many steps? Say --steps N (there is no params.yaml here)")
        steps = params.steps
    sample = params.sample if params else None
    return Chosen(
        num_steps=steps,
        predictor=predictor or (sample.predictor if sample else "auto"),
        temperature=temperature or (sample.temperature if sample else 1.0),
        top_p=top_p or (sample.top_p if sample else 1.0),
        stepping=replace(
            sample.stepping if sample else PLAIN,
            **{name: value for name, value in stepping.items() if value is not None},
        ),
        conditioning=Conditioning(_values(labels or []), guidance),
        seed=pick_seed(seed),
        batch_size=batch_size,
        device=pick_device_name(device),
        show_states=show_states,
    )


def _values(labels: list[str]) -> dict[str, str]:
    try:
        return values_of(labels)
    except ValueError as error:
        raise ParamsError(f"--label: {error}") from None
