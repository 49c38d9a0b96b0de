"""`sedd zero-shot` and `sedd references`: figures that stand beside published ones."""

import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import options
from pipeline.cli.options import check_draws, check_range
from pipeline.errors import ParamsError, reported
from pipeline.files import expanded, read_object, write_json

if TYPE_CHECKING:
    from pipeline.data.tokenizer import TextTokenizer
    from pipeline.zeroshot.evaluation import Packed
    from pipeline.zeroshot.scoring import Draws
    from pipeline.zeroshot.texts import Texts

RESULTS = Path("artifacts/zero_shot")
"""What the stage writes, in dvc.yaml."""
REPORTED = Path("reports/results.json")
"""What the report's stage writes, once all that it is of is there."""


@reported
def zero_shot(
    file: Annotated[Path, typer.Argument(help="parquet, jsonl, csv, tsv or txt, a row a text.")],
    column: Annotated[str, typer.Option(help="Of the file; .txt has none.")] = "text",
    detokenizer: Annotated[
        str, typer.Option(help="none, wikitext, ptb, lm1b, lambada or scientific_papers.")
    ] = "none",
    protocol: Annotated[str, typer.Option(help="exact, sedd, mdlm, duo or bd3lm.")] = "exact",
    workers: Annotated[
        int,
        typer.Option(help="Of the papers' code: each one's every 1,000 rows lose their rest."),
    ] = 8,
    model: options.ModelFolder = options.MODEL,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder of a tokenizer.json, with --count.", show_default="the model's"),
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens a block.", show_default="the model's; else 1024")
    ] = None,
    max_blocks: Annotated[
        int | None, typer.Option(help="Score so many, evenly spaced.", show_default="all")
    ] = None,
    of: Annotated[
        str | None,
        typer.Option("--set", help="What the papers' tables call the set, to be put beside them."),
    ] = None,
    split: Annotated[str, typer.Option(help="Of the set: train, validation or test.")] = "test",
    against: Annotated[
        str | None,
        typer.Option(
            help="gpt2, gpt2-large or a folder: an autoregressive model, on the same blocks."
        ),
    ] = None,
    count: Annotated[
        bool, typer.Option("--count", help="Only count texts, blocks and what is left over.")
    ] = False,
    show_texts: Annotated[
        bool, typer.Option("--show-texts", help="Only print the rows as scored, each as JSON.")
    ] = False,
    num_replicates: Annotated[int, typer.Option(help="As evaluate.num_replicates.")] = 16,
    num_draws: Annotated[int, typer.Option(help="As evaluate.num_draws: even.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Blocks a network call.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    device: options.Device = None,
    out: Annotated[Path | None, typer.Option(help="Also write every figure, as JSON.")] = None,
) -> None:
    """Score a model on a file's rows as a published table is scored: nats, perplexity, bits.

    What each protocol counts: docs/zero-shot.md.
    """
    from pipeline.zeroshot.comparable import NAMES, Set
    from pipeline.zeroshot.detokenizers import DETOKENIZERS
    from pipeline.zeroshot.evaluation import pack
    from pipeline.zeroshot.protocols import PROTOCOLS
    from pipeline.zeroshot.scoring import Draws
    from pipeline.zeroshot.showing import counts_shown, figures_shown
    from pipeline.zeroshot.texts import read_texts

    _check_name("--detokenizer", detokenizer, DETOKENIZERS)
    _check_name("--protocol", protocol, PROTOCOLS)
    _check_name("--split", split, ("train", "validation", "test"))
    if of is not None:
        _check_name("--set", of, NAMES)
    check_range("--workers", workers, 1, options.MOST)
    for name, value in (("--length", length), ("--max-blocks", max_blocks)):
        check_range(name, 1 if value is None else value, 1, options.MOST)
    texts = read_texts(expanded(str(file)), column, detokenizer, key="--column")
    if show_texts:
        for row in texts.rows:
            print(json.dumps(row))
        return

    def packed(by: "TextTokenizer", usual: int) -> "Packed":
        return pack(
            Set(of, split, detokenizer),
            texts,
            by,
            protocol,
            length=usual if length is None else length,
            workers=workers,
            max_blocks=max_blocks,
        )

    if count:
        print(counts_shown(packed(*_tokenizer_and_length(model, tokenizer)).facts))
        return
    if tokenizer is not None:
        raise ParamsError("--tokenizer is for --count: a model is scored in its own tokens")
    check_range("--num-replicates", num_replicates, 2, options.MOST)
    check_range("--batch-size", batch_size, 1, options.MOST)
    check_draws(num_draws)
    draws = Draws(num_replicates, num_draws, batch_size, options.pick_seed(seed))
    where = options.pick_device_name(device)
    result = _score(model, packed, texts, draws, against, length, where)
    if out is not None:
        write_json(out, result)
    print(figures_shown(result))


@reported
def references() -> None:
    """Print published figures, and beside them those of this project that may stand there.

    A table for each protocol. What is scored: `zero_shot` in params.yaml, then dvc repro.
    """
    from pipeline.config.params import load_params
    from pipeline.references.tables import beside
    from pipeline.references.trained import reported as of_the_report

    params = load_params() if Path("params.yaml").exists() else None
    found = {name: RESULTS / f"{name}.json" for name in params.zero_shot.names} if params else {}
    scored = {
        name: read_object(path, "protocols")["protocols"]
        for name, path in found.items()
        if path.is_file()
    }
    trained = of_the_report(REPORTED) if params and REPORTED.is_file() else []
    print(beside(scored, trained))
    if missing := [name for name, path in found.items() if not path.is_file()]:
        print(f"not scored yet: {', '.join(missing)}: dvc repro", file=sys.stderr)


def _check_name(option: str, name: str, allowed: Collection[str]) -> None:
    if name not in allowed:
        raise ParamsError(f"{option} must be one of {', '.join(allowed)} (got {name})")


def _tokenizer_and_length(model: Path, tokenizer: Path | None) -> "tuple[TextTokenizer, int]":
    """The tokenizer asked for, or the model's; and the blocks' usual length."""
    if tokenizer is not None:
        from pipeline.data.gpt2 import read_tokenizer
        from pipeline.zeroshot.protocols import LENGTH

        return read_tokenizer(expanded(str(tokenizer))), LENGTH
    from pipeline.checkpoints.checkpoint import checkpoint_config
    from pipeline.cli.model import load_tokenizer

    return load_tokenizer(model), checkpoint_config(model)["length"]


def _score(
    folder: Path,
    packed: "Callable[[TextTokenizer, int], Packed]",
    texts: "Texts",
    draws: "Draws",
    against: str | None,
    length: int | None,
    device: str,
) -> dict[str, Any]:
    """Every figure of the model in `folder`."""
    from pipeline.checkpoints.checkpoint import block_mode
    from pipeline.cli.model import load_model
    from pipeline.device import memory_for, pick_device, pick_precision
    from pipeline.zeroshot.against import load_against
    from pipeline.zeroshot.evaluation import Scored, score

    where = pick_device(device)
    precision = pick_precision("auto", where, "--device")
    model, tokenizer = load_model(folder, where)
    if length is not None:
        check_range("--length", length, 1, model.length)
    if block_mode(folder) == "pad":
        print(
            "note: this model was trained on one text a block; here it gets running text",
            file=sys.stderr,
        )
    blocks = packed(tokenizer, model.length)
    other = None
    if against is not None:
        other = load_against(against, tokenizer, key="--against", device=where, precision=precision)
    with memory_for("--batch-size"):
        return score(Scored(model, tokenizer, precision, other), blocks, texts, draws)
