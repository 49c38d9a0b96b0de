"""The model card of an export: README.md with the hub's front matter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from pipeline.config.publish import LICENSE, LICENSES, NAME
from pipeline.errors import ParamsError
from pipeline.templates import templates

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Record(BaseModel):
    """A JSON object that the pipeline wrote; keys that a card does not show are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Figures(Record):
    """Figures of a set of texts; None where there was nothing to measure."""

    gen_ppl: Finite | None
    gen_ppl_stderr: Finite | None
    entropy: Finite | None
    well_formed: Finite | None
    nfe: Finite | None


class Bound(Record):
    """Held-out likelihood beside the baseline's, nats a character, of so many texts of so many."""

    bound_nats_per_char: Finite
    bound_stderr: Finite
    baseline_nats_per_char: Finite
    baseline_stderr: Finite
    num_texts: int | None = None
    num_texts_of: int | None = None


class Results(Record):
    """What a card shows of reports/results.json."""

    scorer: str
    likelihood: Bound
    by_steps: dict[int, Figures]
    real_text: Figures


class Data(Record):
    """What the model was trained on."""

    repo: str
    commit: str


@dataclass(frozen=True)
class Card:
    """What only who exports knows.

    Attributes:
        name: of the model.
        license: of its weights, as the hub spells it.
        data: what it was trained on; None where that is not known.
        results: its figures; None where it was not evaluated.
    """

    name: str
    license: str
    data: Data | None = None
    results: Results | None = None

    def __post_init__(self) -> None:
        """Refuse a name or a licence that the hub would not take, with ParamsError."""
        wrong = []
        if not NAME.fullmatch(self.name):
            wrong.append(f"name must be letters, digits, -, _ and . (got {self.name!r})")
        if not LICENSE.fullmatch(self.license):
            wrong.append(f"license {LICENSES} (got {self.license!r})")
        if wrong:
            raise ParamsError(*wrong)


def render(card: Card, config: dict[str, Any], num_weights: int) -> str:
    """The text of README.md.

    Args:
        config: config.json of the checkpoint.
        num_weights: of the network.
    """
    has_mask = config["graph"] == "absorb"
    front = {
        "license": card.license,
        "library_name": "transformers",
        **({"pipeline_tag": "fill-mask"} if has_mask else {}),
        "tags": ["sedd", "text-diffusion", "discrete-diffusion"],
    }
    environment = templates(Path(__file__).parent)
    environment.filters["figure"] = _figure
    text = environment.get_template("card.md.j2").render(
        front=yaml.safe_dump(front, sort_keys=False),
        card=card,
        config=config,
        has_mask=has_mask,
        one_text=config["text_lengths"] is not None,
        num_weights=num_weights,
    )
    return f"{text}\n"


def _figure(value: float | None, stderr: float | None = None, digits: int = 3) -> str:
    if value is None:
        return "–"
    error = "" if stderr is None else f" ± {stderr:.{digits}f}"
    return f"{value:.{digits}f}{error}"
