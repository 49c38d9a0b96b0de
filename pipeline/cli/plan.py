"""`sedd plan`: what the experiment of params.yaml would take on GPUs."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import check_range
from pipeline.errors import ParamsError, reported
from pipeline.files import read_as

if TYPE_CHECKING:
    from pipeline.config.costs import Corpus
    from pipeline.config.params import Params
    from pipeline.network.trunk import Trunk
    from pipeline.report.records import PackedMeta

PARAMS = Path("params.yaml")
META = Path("artifacts/packed/meta.json")
GPT2 = 50_257
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@reported
def plan(
    gpu: Annotated[str, typer.Option(help="a100, h100 or h200.")] = "h100",
    gpus: Annotated[int, typer.Option(help="How many train.")] = 1,
    cores: Annotated[int, typer.Option(help="How many pack.")] = 16,
    preset: Annotated[
        str | None, typer.Option(help="Of this recipe, in place of params.yaml as it is.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Of the text.", show_default="those packed here")
    ] = None,
    gigabytes: Annotated[
        float | None, typer.Option(help="Of documents: how long they take to pack.")
    ] = None,
) -> None:
    """Print time, memory and disk of each stage on GPUs, by arithmetic from stated rates.

    Nothing is run, and no GPU is needed. OpenWebText has 38 GB and 9,040,000,000 tokens of GPT-2.
    """
    from pipeline.config.costs import Network, costs, rates
    from pipeline.report.records import PackedMeta
    from pipeline.table import aligned

    if gpu not in rates().gpus:
        raise ParamsError(f"--gpu must be one of {', '.join(rates().gpus)} (got {gpu})")
    for name, value in (("--cores", cores), ("--tokens", tokens or 1)):
        check_range(name, value, 1)
    if gigabytes is not None and not 0 < gigabytes < math.inf:
        raise ParamsError(f"--gigabytes must be above 0 (got {gigabytes})")
    params, packed = _params(preset), None
    check_range("--gpus", gpus, 1, params.train.batch_size)
    if preset is None and META.is_file():
        packed = read_as(META, PackedMeta)
    if gpus & (gpus - 1):
        raise ParamsError(f"--gpus must be a power of two, as ranks are (got {gpus})")
    if params.method != "sedd":
        raise ParamsError(f"method: a plan is made for sedd alone (got {params.method})")
    corpus = _corpus(params, packed, tokens, gigabytes)
    vocab_size, sizes = _vocab_size(params, packed, preset), params.model
    trunk, held = trained(params, vocab_size, gpus)
    network = Network(
        sum(each.numel() for each in trunk.parameters()),
        *(sizes.width, sizes.num_blocks, vocab_size, params.pack.length),
    )
    memory = rates().gpus[gpu].memory * 1e9
    strategy = params.resources.strategy
    how = f" with {strategy}" if gpus > 1 else ""
    print(
        f"{network.num_params:,} parameters on {gpus} x {gpu}; training takes {held / 1e9:.3g} GB "
        f"of each GPU's {memory / 1e9:g}{how}, calculated (docs/gpu.md)"
    )
    rows = [["stage", "takes", "leaves on disk", "by"]]
    for cost in costs(params, network, corpus, gpu=gpu, num_gpus=gpus, num_cores=cores):
        takes = "not known" if cost.seconds is None else _span(*cost.seconds)
        rows.append([cost.stage, takes, _size(cost.disk), cost.source])
    print(aligned(rows))
    if held > memory:
        divide = ", or have several GPUs divide weights (resources.strategy: fsdp)"
        raise ParamsError(
            f"training does not fit: raise train.accumulate (now {params.train.accumulate}), or "
            "set train.activation_checkpointing: true"
            + (divide if gpus == 1 or strategy == "ddp" else "")
        )


def _params(preset: str | None) -> "Params":
    from pipeline.config import presets
    from pipeline.config.params import load_params
    from pipeline.config.strict_yaml import read_text

    if preset is None:
        return load_params()
    text = read_text(PARAMS)
    presets.preset(preset)
    return presets.applied(text, presets.changes(text, preset), f"{PARAMS} with {preset}")


def _vocab_size(params: "Params", packed: "PackedMeta | None", preset: str | None) -> int:
    from pipeline.config import presets

    if packed is not None:
        return packed.vocab_size
    if preset is not None:
        return presets.preset(preset).vocab_size
    kind = params.tokenizer.kind
    if kind == "char":
        raise ParamsError(
            f"{META} is missing, and only the text has its characters: dvc repro pack"
        )
    return GPT2 if kind == "gpt2" else params.tokenizer.vocab_size


def _corpus(
    params: "Params", packed: "PackedMeta | None", tokens: int | None, gigabytes: float | None
) -> "Corpus":
    from pipeline.config.costs import Corpus

    length = params.pack.length
    if tokens is not None:
        return Corpus(tokens, round(params.data.holdout * tokens / length), gigabytes)
    if packed is None:
        raise ParamsError(f"--tokens: how many there are is not known: {META} is missing")
    blocks = packed.num_blocks
    return Corpus(sum(blocks.values()) * length, blocks["test"], gigabytes)


def trained(params: "Params", vocab_size: int, num_gpus: int) -> "tuple[Trunk, int]":
    """The network on the meta device, and the bytes that training it takes on a GPU.

    Args:
        num_gpus: side by side, each with pieces of the batch.
    """
    import torch

    from pipeline.methods.registry import method_named
    from pipeline.training.memory import training_bytes

    method, train, length = method_named(params.method), params.train, params.pack.length
    with torch.device("meta"):
        network = method.build(method.config_of(params, vocab_size, length)).network
    network.activation_checkpointing = train.activation_checkpointing
    pieces = max(train.accumulate, num_gpus)
    return network, training_bytes(
        network,
        train.batch_size // pieces * length,
        everywhere=params.diffusion.graph == "uniform",
        num_pieces=pieces // num_gpus,
        in_order=train.reduction == "fixed",
        num_ranks=num_gpus,
        divided=num_gpus > 1 and params.resources.strategy == "fsdp",
    )


def _span(least: float, most: float) -> str:
    units = {"days": DAY, "hours": HOUR, "minutes": MINUTE, "seconds": 1.0}
    unit = next((each for each, seconds in units.items() if most >= 2 * seconds), "seconds")
    digits = 1 if most < 10 * units[unit] else 0
    low, high = (f"{each / units[unit]:.{digits}f}" for each in (least, most))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes else ""
