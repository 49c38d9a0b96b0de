"""`sedd preset`: the values of a known recipe, written into params.yaml."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import reported
from pipeline.table import shown

if TYPE_CHECKING:
    from pipeline.config.edits import Value
    from pipeline.config.params import Params

PARAMS = Path("params.yaml")


@reported
def preset(
    name: Annotated[str, typer.Argument(help="names, text8, lm1b, owt-small, -medium, -large.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change, and what it takes.")
    ] = False,
) -> None:
    """Write the values of a known recipe into params.yaml; comments and layout stay.

    With --dry-run nothing is written, and the model's parameters, the tokens that it would see and
    the memory of its training on a GPU are said too. `sedd preset names` brings back the values
    that the project ships with.
    """
    from pipeline.config import presets
    from pipeline.config.edits import edit_yaml
    from pipeline.config.identity import leaves
    from pipeline.config.params import load_params
    from pipeline.config.strict_yaml import parse, read_text

    recipe = presets.preset(name)
    load_params(PARAMS)
    text = read_text(PARAMS)
    changed = presets.changes(text, name)
    params = presets.applied(text, changed, f"{PARAMS} with {name}")
    print(shown(f"{name}: {recipe.about}"))
    print(shown(f"source: {recipe.source}"))
    before = dict(leaves(parse(text)))
    for key, value in changed.items():
        print(shown(f"{key}: {_said(before[key])} -> {_said(value)}"))
    if dry_run:
        print("\n".join(_costs(params, recipe.vocab_size)))
    else:
        edit_yaml(PARAMS, changed)
    count = f"{len(changed)} value" + "s" * (len(changed) != 1)
    print(f"{PARAMS}: {count} {'would change' if dry_run else 'changed'}")
    for line in _left(params, changed):
        print(shown(line))


def _said(value: "Value") -> str:
    import yaml

    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _left(params: "Params", changed: "dict[str, Value]") -> list[str]:
    """What no recipe knows."""
    lines = []
    if params.data.repo == "bundled" and params.data.files.train != "train.parquet":
        lines.append(
            f"next: name in data.repo an Oxen repository that holds {params.data.files.train}, "
            "then `sedd pin`"
        )
    if params.score.scorer != "baseline" and params.score.scorer_revision is None:
        lines.append(f"next: `sedd pin` writes which {params.score.scorer} is the scorer")
    return lines


def _costs(params: "Params", vocab_size: int) -> list[str]:
    """Parameters, tokens and memory of training, by the sizes in `params`."""
    from pipeline.cli.plan import trained

    train, length = params.train, params.pack.length
    network, held = trained(params, vocab_size, 1)
    num_params = sum(each.numel() for each in network.parameters())
    return [
        f"parameters: {num_params:,}",
        f"tokens: {train.num_steps * train.batch_size * length:,} in {train.num_steps:,} steps of "
        f"{train.batch_size} blocks of {length}",
        f"memory of training on a GPU: {held / 1e9:.3g} GB with train.accumulate "
        f"{train.accumulate}, calculated (docs/gpu.md)",
    ]
