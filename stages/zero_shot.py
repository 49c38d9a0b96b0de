"""Score one zero-shot set under each of its protocols."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.checkpoints.checkpoint import TOKENIZER, load_checkpoint, weights_sha256
from pipeline.config.params import load_params
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import device_label, memory_for, pick_device, pick_precision
from pipeline.errors import reported
from pipeline.evaluation.scorer import check_scorer
from pipeline.files import folder_revision, sha256, write_json
from pipeline.kernels.precision import Precision
from pipeline.scale.shares import starting
from pipeline.scale.unfinished import unfinished_units
from pipeline.scale.units import Units
from pipeline.zeroshot.against import Against, load_against
from pipeline.zeroshot.comparable import Set
from pipeline.zeroshot.evaluation import Scored, pack, score
from pipeline.zeroshot.scoring import Draws
from pipeline.zeroshot.texts import Texts, read_texts
from stages import STARTED_BY, run

if TYPE_CHECKING:
    from pipeline.config.zero_shot import ZeroShot, ZeroShotSet


@reported
def main(name: str, checkpoint: Path, data: Path, out: Path) -> None:
    """Write every figure of the set NAME, whose file is in DATA, to OUT."""
    params = load_params()
    settings, declared = params.zero_shot, params.zero_shot.sets[name]
    device = pick_device(params.device)
    precision = pick_precision(settings.precision, device, "zero_shot.precision")
    path, key = data / declared.file, f"zero_shot.sets.{name}.column"
    texts = read_texts(path, declared.column, declared.detokenizer, key=key)
    tokenizer = TextTokenizer.load(checkpoint / TOKENIZER)
    against = _against(settings, tokenizer, device, precision)
    scored = Scored(load_checkpoint(checkpoint, device), tokenizer, precision, against)
    identity = {
        "zero_shot": settings.model_dump(exclude={"names", "sets"}),
        "set": declared.model_dump(),
        "data": sha256(path),
        "checkpoint": folder_revision(checkpoint),
        "device": device_label(device),
        "precision": precision,
    }
    resources = params.resources
    start = starting("stages.zero_shot", resources, params.device)
    with unfinished_units("zero_shot", identity, STARTED_BY, start, resources.store) as (
        units,
        work,
    ):
        found = _by_protocol(scored, texts, settings, declared, units)
        work.computed()
        sources = {key: getattr(declared, key) for key in ("repo", "revision", "file")}
        hashes = {"sha256": identity["data"], "checkpoint_sha256": weights_sha256(checkpoint)}
        write_json(out, {"name": name, **sources, **hashes, "protocols": found})
        work.finish()


def _by_protocol(
    scored: Scored, texts: Texts, settings: "ZeroShot", declared: "ZeroShotSet", units: Units
) -> dict[str, Any]:
    """Every figure under each protocol."""
    draws = Draws(settings.num_replicates, settings.num_draws, settings.batch_size, settings.seed)
    found: dict[str, Any] = {}
    for protocol in declared.protocols:
        packed = pack(
            Set(declared.of, declared.split, declared.detokenizer),
            texts,
            scored.tokenizer,
            protocol,
            length=scored.model.length,
            workers=settings.workers,
            max_blocks=settings.max_blocks,
        )
        with memory_for("zero_shot.batch_size"):
            found[protocol] = score(scored, packed, texts, draws, units)
    return found


def _against(
    settings: "ZeroShot", tokenizer: TextTokenizer, device: torch.device, precision: Precision
) -> Against | None:
    if settings.against is None:
        return None
    check_scorer(settings.against, settings.against_revision, "zero_shot.against_revision")
    return load_against(
        settings.against,
        tokenizer,
        key="zero_shot.against",
        device=device,
        precision=precision,
        commit=settings.against_revision,
    )


if __name__ == "__main__":
    run(main)
