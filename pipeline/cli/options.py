"""Options that several commands share, and what stands for one that is not given."""

import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ParamsError
from pipeline.methods.samplers import Corrector, Grid, Order, PredictorName

if TYPE_CHECKING:
    from pipeline.config.data import Patience
    from pipeline.config.params import Params

ModelFolder = Annotated[
    Path, typer.Option("--model", metavar="DIR", help="Folder of the model and its tokenizer.")
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", help="Sampling steps.", show_default="steps of params.yaml"),
]
Number = Annotated[int, typer.Option("--num", help="How many texts.")]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        help="The same seed and options give the same texts.",
        show_default="drawn and told on stderr",
    ),
]
Predictor = Annotated[
    PredictorName | None,
    typer.Option(
        "--predictor",
        help="Sampler. Of every SEDD model: analytic, euler. Of a conditional score: cached, which "
        "has the law of analytic for fewer evaluations, and first_hitting, which reveals one token "
        "at a time, exactly, whatever --steps says. auto: cached if possible, else analytic. Of "
        "embedding diffusion: ddpm (auto), ddim, draw.",
        show_default="sample.predictor of params.yaml; auto where there is none",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        help="Of the token that is drawn, or expected; 1 is off. Not with uniform's raw score.",
        show_default="sample.temperature of params.yaml; 1 where there is none",
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        help="Draw one of the likeliest tokens that together hold this share; 1 is off. Not "
        "with uniform's raw score.",
        show_default="sample.top_p of params.yaml; 1 where there is none",
    ),
]
GridOption = Annotated[
    Grid | None,
    typer.Option(
        "--grid",
        help="Times of the steps; cosine takes small ones first.",
        show_default="sample.grid of params.yaml; uniform where there is none",
    ),
]
OrderOption = Annotated[
    Order | None,
    typer.Option(
        "--order",
        help="Which positions are revealed first, of a conditional score with masks. random is the "
        "model's own law; what the others draw is not: they take positions that the model is sure "
        "of (confidence: the likeliest token's chance; margin: its lead over the second; "
        "entropy_bound: as many at once as --gamma allows, whatever --steps says).",
        show_default="sample.order of params.yaml; random where there is none",
    ),
]
Gamma = Annotated[
    float | None,
    typer.Option(
        "--gamma",
        help="Of entropy_bound: nats that the entropies of positions revealed at once may sum to, "
        "less the largest.",
        show_default="sample.gamma of params.yaml; 0.1 where there is none",
    ),
]
CorrectorOption = Annotated[
    Corrector | None,
    typer.Option(
        "--corrector",
        help="What takes tokens back. Of a conditional score: cap, rescale, loop, "
        "forward_backward, as much as --eta says by time alone; with masks also conf, where the "
        "model was least sure. Of the uniform graph: gibbs redraws --num-redrawn positions at "
        "random after each step, low_confidence those that the model finds least likely. As steps "
        "are added, forward_backward, gibbs and, more slowly, cap and rescale tend to the model's "
        "own law; loop, conf and low_confidence draw from another.",
        show_default="sample.corrector of params.yaml; none where there is none",
    ),
]
Eta = Annotated[
    float | None,
    typer.Option(
        "--eta",
        help="Of cap to conf: how much is taken back, above 0 and up to 1.",
        show_default="sample.eta of params.yaml; 0.1 where there is none",
    ),
]
Hold = Annotated[
    float | None,
    typer.Option(
        "--hold",
        help="Of loop: the time, between 0 and 1, at which half of the steps are spent.",
        show_default="sample.hold of params.yaml; 0.1 where there is none",
    ),
]
NumRedrawn = Annotated[
    int | None,
    typer.Option(
        "--num-redrawn",
        help="Of gibbs and low_confidence: positions redrawn after each step.",
        show_default="sample.num_redrawn of params.yaml; 1 where there is none",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="COLUMN=VALUE",
        help="What all texts are asked for, of a model trained with data.labels; once for each "
        "column. Columns that are left out are not said.",
        show_default="none",
    ),
]
Guidance = Annotated[
    float,
    typer.Option(
        "--guidance",
        help="How strongly --label is followed, w of log p_w = (1 - w) log p + w log p given the "
        "labels: 1 is the model's own law given them, 0 that without. Above 1 labels are clearer, "
        "texts less varied. Twice the evaluations, but at 0 and 1.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        help="Texts that are drawn together.",
        show_default="128, less where length and vocabulary are large",
    ),
]
ShowIntermediate = Annotated[
    bool,
    typer.Option(
        "--show-intermediate", help="Print each state of each text on stderr as it changes."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N",
        help="Where the model runs.",
        show_default="device of params.yaml; auto where there is none",
    ),
]
MODEL = Path("artifacts/checkpoint")
LARGEST_SEED = 2**63 - 1
MOST = 10**6
"""Texts, and steps."""


def check_range(option: str, value: int, least: int, most: int | None = None) -> None:
    """Raise ParamsError unless `least` <= `value` <= `most`."""
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ParamsError(f"{option} must be {allowed} (got {value})")


def check_draws(num_draws: int) -> None:
    """Raise ParamsError unless --num-draws counts antithetic pairs."""
    if not 2 <= num_draws <= MOST or num_draws % 2:
        raise ParamsError(f"--num-draws must be even and at least 2 (got {num_draws})")


def new_folder(destination: Path) -> Path:
    """DST as a whole path, of a folder that is to be made, or is there and empty.

    Raises:
        ParamsError: something else is there.
    """
    place = destination.resolve()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ParamsError(f"DST must be new or an empty folder (got {place})")
    return place


def pick_device_name(device: str | None) -> str:
    """The device asked for, or the project's.

    Raises:
        ParamsError: it is no device's name.
    """
    if device is None:
        params = params_here()
        return "auto" if params is None else params.device
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise ParamsError(f"--device must be auto, cpu, cuda or cuda:N (got {device})")
    return device


def pick_seed(seed: int | None) -> int:
    """The seed asked for, or a new one."""
    if seed is None:
        return secrets.randbelow(2**31)
    check_range("--seed", seed, 0, LARGEST_SEED)
    return seed


def patience() -> "Patience":
    """Patience with servers: the project's, or outside one that of the shipped params.yaml."""
    from pipeline.config.data import Patience

    params = params_here()
    return params.oxen if params else Patience(connect_seconds=10, stall_seconds=60, retries=4)


def params_here() -> "Params | None":
    """The values of the project in the working folder, if there is one."""
    from pipeline.config.params import load_params

    return load_params() if Path("params.yaml").exists() else None
