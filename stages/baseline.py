"""Train the autoregressive baseline on the packed blocks; resumes what was interrupted."""

import math
from pathlib import Path

import torch
import typer
from transformers import GPT2LMHeadModel

from pipeline.baseline.gpt2 import NextToken, block_nats, new_baseline, save_baseline
from pipeline.data.packed import Packed
from pipeline.device import device_label, memory_for, pick_device
from pipeline.errors import reported
from pipeline.files import write_json
from pipeline.params import Baseline, load_params
from pipeline.training.loop import Fitted, Settings, Watch, fit, write_losses
from pipeline.training.state import TrainingState, hash_files, training_state

CODE = [Path(__file__).parents[1] / "pipeline" / room for room in ("baseline", "training")]


def settings_of(params: Baseline, length: int) -> Settings:
    """As many steps as `num_tokens` positions need, the last one begun counts."""
    num_steps = math.ceil(params.num_tokens / (params.batch_size * length))
    shared = set(Settings.__annotations__) - {"num_steps"}
    return Settings(num_steps=num_steps, **params.model_dump(include=shared))


def train(
    params: Baseline,
    settings: Settings,
    packed: Packed,
    *,
    device: torch.device,
    state: TrainingState,
) -> tuple[GPT2LMHeadModel, Fitted]:
    """The trained model, with what was logged."""
    meta = packed.meta
    model = new_baseline(
        params,
        vocab_size=meta.vocab_size,
        length=meta.length,
        eos_id=meta.eos_id,
        mode=meta.mode,
        seed=params.seed,
        device=device,
    )
    # Evenly spread: a split in alphabetical order begins with names of one kind.
    held_out = packed.test[:: max(1, len(packed.test) // params.eval_blocks)][: params.eval_blocks]
    fitted = fit(
        NextToken(model),
        packed.train,
        settings,
        Watch(lambda: block_nats(model, held_out, batch_size=params.batch_size)[0].mean().item()),
        device=device,
        state=state,
        desc="baseline",
    )
    return model, fitted


@reported
def main(packed: Path, tokenizer: Path, baseline: Path, run: Path, losses: Path) -> None:
    """Train, and write the model with its tokenizer, the run's facts and the loss curve."""
    params = load_params()
    device = pick_device(params.device)
    blocks = Packed.open(packed)
    settings = settings_of(params.baseline, blocks.meta.length)
    identity = {
        "baseline": params.baseline.model_dump(exclude={"checkpoint_every"}),
        "data": hash_files([packed / name for name in ("meta.json", "train.bin", "test.bin")]),
        "code": hash_files([*CODE, Path(__file__)]),
        "torch": torch.__version__,
    }
    with training_state("baseline", identity) as state, memory_for("baseline.batch_size"):
        model, fitted = train(params.baseline, settings, blocks, device=device, state=state)
        sha256 = save_baseline(baseline, model, tokenizer=tokenizer)
        write_losses(losses, fitted.losses)
        num_tokens = settings.num_steps * settings.batch_size * blocks.meta.length
        write_json(
            run,
            {
                "num_params": model.num_parameters(),
                "num_tokens": num_tokens,
                "num_steps": settings.num_steps,
                "seconds": fitted.seconds,
                "tokens_per_second": num_tokens / fitted.seconds,
                "device": device_label(device),
                "torch": torch.__version__,
                "sha256": sha256,
            },
        )
        state.finish()


if __name__ == "__main__":
    typer.run(main)
