"""The bound on held-out likelihood, beside the baseline's exact value, paired text by text."""

from pathlib import Path
from typing import Any

import torch

from pipeline.baseline.gpt2 import block_nats, check_baseline, load_baseline
from pipeline.checkpoints.checkpoint import TOKENIZER, check_tokenizer, load_checkpoint
from pipeline.config.params import load_params
from pipeline.config.sampling import Evaluate
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import device_label, memory_for, pick_device, pick_precision
from pipeline.errors import PipelineError, reported
from pipeline.evaluation.likelihood import Sizes, likelihood
from pipeline.files import folder_revision, write_json
from pipeline.kernels.precision import products_in
from pipeline.methods.estimates import Bound
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_of
from pipeline.scale.shares import starting
from pipeline.scale.unfinished import unfinished_units
from pipeline.scale.units import Units
from stages import STARTED_BY, run


@reported
def main(checkpoint: Path, baseline: Path, packed: Path, out: Path) -> None:
    """Evaluate both models on every held-out block, or on `evaluate.num_texts` of them."""
    params = load_params()
    settings, device = params.evaluate, pick_device(params.device)
    every = Packed.open(packed)
    blocks = every.with_some_test(settings.num_texts)
    tokenizer_sha256 = blocks.meta.tokenizer_sha256
    check_tokenizer(checkpoint, tokenizer_sha256)
    check_baseline(baseline, tokenizer_sha256=tokenizer_sha256, length=blocks.meta.length)
    model = load_checkpoint(checkpoint, device)
    precision = pick_precision(settings.precision, device, "evaluate.precision")
    identity = {
        "evaluate": settings.model_dump(),
        "device": device_label(device),
        "precision": precision,
        "checkpoint": folder_revision(checkpoint),
        "baseline": folder_revision(baseline),
        "blocks": blocks.identity(packed),
    }
    resources = params.resources
    start = starting("stages.evaluate", resources, params.device)
    with unfinished_units("evaluate", identity, STARTED_BY, start, resources.store) as (
        units,
        work,
    ):
        with memory_for("evaluate.batch_size"), products_in(precision, device):
            bound, given_labels = _bounds(model, blocks, settings, units)
            exact, num_tokens = block_nats(
                load_baseline(baseline, device),
                blocks.test,
                batch_size=settings.batch_size,
                units=units.named("baseline", "baseline"),
            )
        work.computed()
        if impossible := int((~bound.total.isfinite()).any(0).sum()):
            raise PipelineError(
                f"the bound is infinite for {impossible} of {len(exact)} texts: the last step of "
                "sampling gives them no chance; train longer"
            )
        tokenizer = TextTokenizer.load(checkpoint / TOKENIZER)
        sizes = Sizes.of(blocks, tokenizer, num_tokens)
        values = likelihood(bound, torch.as_tensor(exact), sizes, given_labels)
        values["num_texts_of"] = len(every.test)
        repeats = {"num_replicates": settings.num_replicates, "num_draws": settings.num_draws}
        write_json(out, values | repeats)
        work.finish()


def _bounds(
    model: Model, blocks: Packed, settings: Evaluate, units: Units
) -> tuple[Bound, Bound | None]:
    """The bound, and of a model of labels that given these, under the same noise."""

    def drawn(units: Units, **labels: Any) -> Bound:
        return method_of(model).draw_bound(
            model,
            blocks.test,
            num_replicates=settings.num_replicates,
            num_draws=settings.num_draws,
            batch_size=settings.batch_size,
            seed=settings.seed,
            units=units,
            **labels,
        )

    bound = drawn(units.named("bound", "bound"))
    if not model.labels:
        return bound, None
    given = units.named("labelled", "bound given labels")
    return bound, drawn(given, labels=blocks.test_labels)


if __name__ == "__main__":
    run(main)
