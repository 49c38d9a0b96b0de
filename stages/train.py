"""Train a model on the packed blocks; resumes what was interrupted."""

from pathlib import Path

import torch

from pipeline.checkpoints.checkpoint import save_checkpoint
from pipeline.config.params import load_params
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import device_label, memory_for, pick_device
from pipeline.environment import lock_sha256
from pipeline.errors import reported
from pipeline.files import write_json, write_jsonl
from pipeline.methods.registry import method_named
from pipeline.publishing.handing import pushing
from pipeline.training.losses import write_losses
from pipeline.training.run import init_sha256, settings_of, train
from pipeline.training.state import hash_code, hash_files, training_state
from stages import STARTED_BY, TRAINED, run

# With the method, all of the code that decides what training writes.
CODE = (
    *("methods/draws.py", "methods/estimates.py", "network", "kernels", "training"),
    *("scale/ddp.py", "scale/tree.py", "scale/world.py"),
)


@reported
def main(
    packed: Path, tokenizer: Path, checkpoint: Path, snapshots: Path, run: Path, losses: Path
) -> None:
    """Train, and write the checkpoint, the snapshots, the run's facts and the loss curve."""
    params = load_params()
    blocks, text = Packed.open(packed), TextTokenizer.load(tokenizer)
    meta, publish = blocks.meta, params.publish
    config = method_named(params.method).config_of(
        params, meta.vocab_size, meta.length, meta.labels
    )
    identity = {
        "method": params.method,
        "model": config.asdict(),
        "train": params.train.model_dump(exclude={"checkpoint_every"}),
        "precision": settings_of(params, pick_device(params.device)).precision,
        "data": hash_files([packed / f"{split}.bin" for split in meta.num_blocks]),
        "tokenizer": text.sha256,
        "init": init_sha256(params),
        "code": hash_code(*CODE, f"methods/{params.method}"),
        "torch": torch.__version__,
    }
    request = {"repo": publish.repo, "patience": params.oxen.model_dump()}
    with (
        training_state("train", identity, STARTED_BY) as state,
        memory_for("train.batch_size", "train.accumulate"),
    ):
        with pushing(publish.during_training, state.folder, request) as push:
            model, fitted = train(params, blocks, text, state, push)
        sha256 = save_checkpoint(
            checkpoint,
            model,
            tokenizer=tokenizer,
            tokenizer_sha256=text.sha256,
            text_lengths=meta.text_lengths,
        )
        write_jsonl(snapshots, fitted.snapshots)
        write_losses(losses, fitted.losses)
        num_tokens = params.train.num_steps * params.train.batch_size * meta.length
        facts = {
            "num_params": sum(p.numel() for p in model.network.parameters()),
            "num_tokens": num_tokens,
            "num_steps": params.train.num_steps,
            "seconds": fitted.seconds,
            "tokens_per_second": num_tokens / fitted.seconds if num_tokens else None,
            "device": device_label(pick_device(params.device)),
            "precision": identity["precision"],
            "torch": torch.__version__,
            "lock_sha256": lock_sha256(),
            "sha256": sha256,
            "init_sha256": identity["init"],
            "fingerprint": state.folder.name,
        }
        write_json(run, facts)
        TRAINED.set()
        state.finish()


if __name__ == "__main__":
    run(main)
