"""The bound on held-out likelihood, beside the baseline's exact value, paired text by text."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from pipeline.baseline.gpt2 import block_nats, check_baseline, load_baseline
from pipeline.checkpoints.checkpoint import TOKENIZER, check_tokenizer, load_checkpoint
from pipeline.config.params import load_params
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.device import memory_for, pick_device, pick_precision
from pipeline.errors import PipelineError, reported
from pipeline.evaluation.likelihood import Sizes, likelihood
from pipeline.files import write_json
from pipeline.kernels.precision import products_in
from pipeline.methods.estimates import Bound
from pipeline.methods.registry import method_of
from pipeline.progress import progress
from stages import run


@reported
def main(checkpoint: Path, baseline: Path, packed: Path, out: Path) -> None:
    """Evaluate both models on every held-out block."""
    params = load_params()
    device = pick_device(params.device)
    blocks = Packed.open(packed)
    tokenizer_sha256 = blocks.meta.tokenizer_sha256
    check_tokenizer(checkpoint, tokenizer_sha256)
    check_baseline(baseline, tokenizer_sha256=tokenizer_sha256, length=blocks.meta.length)
    model = load_checkpoint(checkpoint, device)
    tokenizer = TextTokenizer.load(checkpoint / TOKENIZER)
    x0 = torch.from_numpy(blocks.test.astype("int64")).to(device)
    settings = params.evaluate
    precision = pick_precision(settings.precision, device, "evaluate.precision")

    def bound_given(desc: str, **labels: torch.Tensor) -> Bound:
        with progress(total=settings.num_replicates, desc=desc, unit="replicate") as bar:
            return method_of(model).draw_bound(
                model,
                x0,
                num_replicates=settings.num_replicates,
                num_draws=settings.num_draws,
                batch_size=settings.batch_size,
                generator=torch.Generator(device).manual_seed(settings.seed),
                on_replicate=bar.update,
                **labels,
            )

    with memory_for("evaluate.batch_size"), products_in(precision, device):
        bound, given_labels = bound_given("bound"), None
        if model.labels:
            rows = torch.from_numpy(blocks.test_labels.astype("int64")).to(device)
            given_labels = bound_given("bound given labels", labels=rows)
        with progress(total=len(x0), desc="baseline", unit="block") as bar:
            exact, num_tokens = block_nats(
                load_baseline(baseline, device),
                blocks.test,
                batch_size=settings.batch_size,
                on_blocks=bar.update,
            )
    if impossible := int((~bound.total.isfinite()).any(0).sum()):
        raise PipelineError(
            f"the bound is infinite for {impossible} of {len(x0)} texts: the last step of sampling "
            "gives them no chance; train longer"
        )
    sizes = Sizes(
        tokens=torch.as_tensor(num_tokens, device=device),
        chars=torch.tensor(_each(blocks, tokenizer.num_chars), device=device),
        bytes=torch.tensor(_each(blocks, tokenizer.num_bytes), device=device),
    )
    values = likelihood(bound, torch.as_tensor(exact, device=device), sizes, given_labels)
    repeats = {"num_replicates": settings.num_replicates, "num_draws": settings.num_draws}
    write_json(out, values | repeats)


def _each(blocks: Packed, size: Callable[[Iterable[int], Mode], int]) -> list[int]:
    return [size(ids, blocks.meta.mode) for ids in blocks.test]


if __name__ == "__main__":
    run(main)
