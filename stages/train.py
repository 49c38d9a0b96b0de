"""Train a model on the packed blocks; resumes what was interrupted."""

from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoints.checkpoint import save_checkpoint
from pipeline.config.params import Params, load_params
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import device_label, memory_for, pick_device
from pipeline.environment import lock_sha256
from pipeline.errors import reported
from pipeline.files import write_json, write_jsonl
from pipeline.methods.registry import method_named
from pipeline.publishing.handing import pushing
from pipeline.scale.unfinished import hash_code
from pipeline.scale.world import joined
from pipeline.training.processes import as_ranks, finish
from pipeline.training.rows import write_losses
from pipeline.training.run import init_sha256, settings_of, train
from pipeline.training.state import training_state
from stages import STARTED_BY, TRAINED, run

# With the method, all of the code that decides what training writes.
CODE = (
    *("methods/draws.py", "methods/estimates.py", "network", "kernels", "training"),
    *(f"scale/{name}.py" for name in ("adamw", "ddp", "fsdp", "seeds", "tree", "world")),
)


@reported
def main(
    packed: Path, tokenizer: Path, checkpoint: Path, snapshots: Path, run: Path, losses: Path
) -> None:
    """Train, and write the checkpoint, the snapshots, the run's facts and the loss curve."""
    params = load_params()
    if as_ranks("stages.train", params, STARTED_BY, TRAINED):
        return
    blocks, text = Packed.open(packed), TextTokenizer.load(tokenizer)
    device, publish = pick_device(params.device), params.publish
    request = {"repo": publish.repo, "patience": params.oxen.model_dump()}
    resources = params.resources
    with joined(
        resources.num_ranks, device, resources.timeout_seconds, resources.strategy
    ) as world:
        identity = identity_of(params, packed, blocks, text) if world.is_first else {}
        with (
            training_state("train", identity, STARTED_BY, world, resources.store) as state,
            memory_for("train.batch_size", "train.accumulate"),
        ):
            sends = publish.during_training and world.is_first
            with pushing(sends, state.folder, request) as push:
                model, seconds = train(params, blocks, text, state, push, world)
            if not world.is_first:
                return
            sha256 = save_checkpoint(
                checkpoint,
                model,
                tokenizer=tokenizer,
                tokenizer_sha256=text.sha256,
                text_lengths=blocks.meta.text_lengths,
            )
            write_jsonl(snapshots, state.snapshots)
            write_losses(losses, state.losses)
            num_tokens = params.train.num_steps * params.train.batch_size * blocks.meta.length
            facts = {
                "num_params": sum(p.numel() for p in model.network.parameters()),
                "num_tokens": num_tokens,
                "num_steps": params.train.num_steps,
                "seconds": seconds,
                "tokens_per_second": num_tokens / seconds if num_tokens else None,
                "device": device_label(device),
                "processes": world.size,
                "precision": identity["precision"],
                "torch": torch.__version__,
                "lock_sha256": lock_sha256(),
                "sha256": sha256,
                "init_sha256": identity["init"],
                "fingerprint": state.folder.name,
            }
            write_json(run, facts)
            finish(state, TRAINED)


def identity_of(
    params: Params, packed: Path, blocks: Packed, text: TextTokenizer
) -> dict[str, Any]:
    """All that decides what training writes."""
    meta = blocks.meta
    config = method_named(params.method).config_of(
        params, meta.vocab_size, meta.length, meta.labels
    )
    return {
        "method": params.method,
        "model": config.asdict(),
        "train": params.train.model_dump(exclude={"checkpoint_every"}),
        "precision": settings_of(params, pick_device(params.device)).precision,
        "data": blocks.identity(packed),
        "tokenizer": text.sha256,
        "init": init_sha256(params),
        "code": hash_code(*CODE, f"methods/{params.method}"),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    run(main)
