"""The bound on held-out likelihood, beside the baseline's exact value, paired text by text."""

import math
from pathlib import Path
from typing import Any

import torch
import typer

from pipeline.baseline.gpt2 import block_nats, check_baseline, load_baseline
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import memory_for, pick_device
from pipeline.errors import PipelineError, reported
from pipeline.files import write_json
from pipeline.params import load_params
from pipeline.progress import progress
from pipeline.sedd.bound import Bound, Rate, draw_bound, rate
from pipeline.training.checkpoint import TOKENIZER, check_tokenizer, load_checkpoint


def likelihood(bound: Bound, exact: torch.Tensor, num_chars: torch.Tensor) -> dict[str, Any]:
    """What likelihood.json holds.

    Args:
        bound: the bound's terms [R, N], nats a text.
        exact: the baseline's nats a text [N].
        num_chars: characters a block [N], each eos counted as one.
    """
    ours, theirs = rate(bound.total, num_chars), rate(exact[None], num_chars)
    gap = rate(bound.total - exact, num_chars)
    chars_per_name = num_chars.double().mean().item()
    return {
        **_in_units("bound", ours, chars_per_name),
        "bound_mc_stderr": ours.mc_stderr,
        "bound_data_stderr": ours.data_stderr,
        **_in_units("baseline", theirs, chars_per_name),
        "gap_nats_per_char": gap.value,
        "gap_stderr": gap.stderr,
        "terms": {
            "integral": bound.integral.mean().item(),
            "prior": bound.prior.mean().item(),
            "reconstruction": bound.reconstruction.mean().item(),
        },
        "num_texts": len(num_chars),
        "num_chars": int(num_chars.sum()),
    }


def _in_units(name: str, value: Rate, chars_per_name: float) -> dict[str, float]:
    return {
        f"{name}_nats_per_char": value.value,
        f"{name}_stderr": value.stderr,
        f"{name}_nats_per_name": value.value * chars_per_name,
        f"{name}_bits_per_char": value.value / math.log(2),
        f"{name}_perplexity": math.exp(value.value),
    }


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
    bar = progress(total=settings.num_replicates, desc="bound", unit="replicate")
    with memory_for("evaluate.batch_size"), bar:
        bound = draw_bound(
            model,
            x0,
            num_replicates=settings.num_replicates,
            num_draws=settings.num_draws,
            batch_size=settings.batch_size,
            generator=torch.Generator(device).manual_seed(settings.seed),
            on_replicate=bar.update,
        )
        exact, _ = block_nats(
            load_baseline(baseline, device), blocks.test, batch_size=settings.batch_size
        )
    if impossible := int((~bound.total.isfinite()).any(0).sum()):
        raise PipelineError(
            f"the bound is infinite for {impossible} of {len(x0)} texts: the final denoise gives "
            "them no chance; train longer, or change diffusion.t_min"
        )
    num_chars = [tokenizer.num_chars(ids, blocks.meta.mode) for ids in blocks.test]
    values = likelihood(
        bound, torch.as_tensor(exact, device=device), torch.tensor(num_chars, device=device)
    )
    repeats = {"num_replicates": settings.num_replicates, "num_draws": settings.num_draws}
    write_json(out, values | repeats)


if __name__ == "__main__":
    typer.run(main)
