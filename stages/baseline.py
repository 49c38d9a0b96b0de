"""Train the autoregressive baseline on the packed blocks; resumes what was interrupted."""

from pathlib import Path
from typing import Any

import torch

from pipeline.baseline.gpt2 import save_baseline
from pipeline.baseline.run import settings_of, train
from pipeline.config.params import load_params
from pipeline.config.training import Baseline
from pipeline.data.packed import Packed
from pipeline.device import device_label, memory_for, pick_device
from pipeline.environment import lock_sha256
from pipeline.errors import reported
from pipeline.files import write_json
from pipeline.scale.unfinished import hash_code
from pipeline.scale.world import joined
from pipeline.training.processes import as_ranks, finish
from pipeline.training.rows import write_losses
from pipeline.training.settings import Settings
from pipeline.training.state import training_state
from stages import STARTED_BY, TRAINED, run

SUMMED = [f"scale/{name}.py" for name in ("adamw", "ddp", "fsdp", "seeds", "tree", "world")]


@reported
def main(packed: Path, tokenizer: Path, baseline: Path, run: Path, losses: Path) -> None:
    """Train, and write the model with its tokenizer, the run's facts and the loss curve."""
    params = load_params()
    if as_ranks("stages.baseline", params, STARTED_BY, TRAINED):
        return
    device, resources = pick_device(params.device), params.resources
    blocks = Packed.open(packed)
    settings = settings_of(params.baseline, blocks.meta.length, device)
    with joined(
        resources.num_ranks, device, resources.timeout_seconds, resources.strategy
    ) as world:
        identity = identity_of(params.baseline, settings, packed, blocks) if world.is_first else {}
        with (
            training_state("baseline", identity, STARTED_BY, world, resources.store) as state,
            memory_for("baseline.batch_size", "baseline.accumulate"),
        ):
            model, seconds = train(
                params.baseline, settings, blocks, device=device, state=state, world=world
            )
            if not world.is_first:
                return
            sha256 = save_baseline(baseline, model, tokenizer=tokenizer)
            write_losses(losses, state.losses)
            num_tokens = settings.num_steps * settings.batch_size * blocks.meta.length
            facts = {
                "num_params": model.num_parameters(),
                "num_tokens": num_tokens,
                "num_steps": settings.num_steps,
                "seconds": seconds,
                "tokens_per_second": num_tokens / seconds,
                "device": device_label(device),
                "processes": world.size,
                "precision": settings.precision,
                "torch": torch.__version__,
                "lock_sha256": lock_sha256(),
                "sha256": sha256,
            }
            write_json(run, facts)
            finish(state, TRAINED)


def identity_of(
    params: Baseline, settings: Settings, packed: Path, blocks: Packed
) -> dict[str, Any]:
    """All that decides what training writes."""
    return {
        "baseline": params.model_dump(exclude={"checkpoint_every"}),
        "precision": settings.precision,
        "data": blocks.identity(packed),
        "code": hash_code("baseline", "training", *SUMMED),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    run(main)
