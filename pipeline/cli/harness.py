"""`sedd lm-eval`: lm-evaluation-harness with a model of this project."""

import json
import sys
from typing import Annotated

import typer

from pipeline.cli import options
from pipeline.cli.options import check_draws, check_range
from pipeline.errors import ParamsError


def lm_eval(
    context: typer.Context,
    model: options.ModelFolder = options.MODEL,
    num_draws: Annotated[
        int, typer.Option(help="Forwards behind each likelihood, an even number.")
    ] = 128,
    steps: Annotated[int, typer.Option(help="Sampling steps of a generated text.")] = 128,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
) -> None:
    """Run lm-evaluation-harness on a model; all other options are the harness's own.

    As in `sedd lm-eval --tasks lambada_openai --limit 100 --batch_size 16`. How likelihoods are
    bounded, and what that does to choices: docs/lm-eval.md.
    """
    from pipeline.environment import check_extra

    check_extra("lm-eval", "sedd lm-eval")
    check_range("--steps", steps, 1, options.MOST)
    check_draws(num_draws)
    if "--tasks" not in context.args:
        raise ParamsError("--tasks is missing: names of the harness's tasks, as lambada_openai")
    from lm_eval.__main__ import cli_evaluate

    import pipeline.harness.model  # noqa: F401  # registers `sedd`

    values = {"folder": str(model.resolve()), "num_draws": num_draws, "num_steps": steps}
    chosen = ["--model", "sedd", "--model_args", json.dumps(values | {"seed": seed})]
    sys.argv = ["sedd lm-eval", "run", *chosen, *context.args]
    cli_evaluate()
