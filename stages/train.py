"""Train SEDD on the packed blocks; resumes what was interrupted."""

from pathlib import Path
from typing import Any

import torch
import typer

from pipeline.data.packed import Meta, Packed
from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.device import check_compile, device_label, memory_for, pick_device
from pipeline.errors import reported
from pipeline.files import from_root, write_json, write_jsonl
from pipeline.params import Params, Train, load_params
from pipeline.sedd.gradient_memory import free_gradient_memory
from pipeline.sedd.loss import ScoreEntropy
from pipeline.sedd.model import SEDD, SEDDConfig
from pipeline.sedd.sampler import sample
from pipeline.training.checkpoint import (
    check_tokenizer,
    save_checkpoint,
    warm_start,
    weights_sha256,
)
from pipeline.training.loop import Fitted, Settings, Watch, fit, write_losses
from pipeline.training.pushing import pushing
from pipeline.training.schedule import step_seed
from pipeline.training.state import TrainingState, hash_files, training_state

CODE = [Path(__file__).parents[1] / "pipeline" / room for room in ("sedd", "training")]


def model_config(params: Params, vocab_size: int, length: int) -> SEDDConfig:
    """The model that params.yaml asks for."""
    diffusion = params.diffusion
    variant = diffusion.absorb if diffusion.graph == "absorb" else diffusion.uniform
    return SEDDConfig(
        graph=diffusion.graph,
        noise=diffusion.noise,
        parameterization=variant.parameterization,
        vocab_size=vocab_size,
        length=length,
        **params.model.model_dump(),
        # Only the schedule in use: the other's values are no dependency of this stage.
        eps=diffusion.loglinear.eps if diffusion.noise == "loglinear" else None,
        sigma_min=diffusion.geometric.sigma_min if diffusion.noise == "geometric" else None,
        sigma_max=diffusion.geometric.sigma_max if diffusion.noise == "geometric" else None,
        t_min=diffusion.t_min,
    )


def new_model(params: Params, meta: Meta, device: torch.device) -> SEDD:
    """The model as training starts with it, not compiled."""
    torch.manual_seed(params.train.seed)
    model = SEDD(model_config(params, meta.vocab_size, meta.length)).to(device)
    if params.train.init is not None:
        warm_start(model, from_root(params.train.init))
    model.network.activation_checkpointing = params.train.activation_checkpointing
    return model


def init_sha256(params: Params) -> str | None:
    """Hash of the weights that training starts from; None where they are random."""
    return None if params.train.init is None else weights_sha256(from_root(params.train.init))


@torch.no_grad()
def held_out_loss(model: SEDD, blocks: torch.Tensor, params: Train) -> float:
    """Mean loss of blocks [N, L] in nats a block, always under the same noise."""
    method = ScoreEntropy(model)
    generator = torch.Generator(blocks.device).manual_seed(step_seed(params.seed, "evaluate", 0))
    drawn = method.draw(blocks, generator)
    pieces = zip(*(torch.split(part, params.batch_size) for part in drawn), strict=True)
    return sum(method.loss(*piece).item() for piece in pieces) / len(blocks)


def samples_at(
    step: int,
    model: SEDD,
    tokenizer: TextTokenizer,
    mode: Mode,
    params: Params,
    device: torch.device,
) -> dict[str, Any]:
    """A snapshot of samples, the same for the same step and weights: their texts and ids."""
    seed = step_seed(params.train.seed, "snapshot", step)
    samples = sample(
        model,
        params.train.sample_num,
        num_steps=params.train.sample_steps,
        predictor="auto",
        generator=torch.Generator(device).manual_seed(seed),
    )
    ids = samples.tokens.tolist()
    return {"texts": [tokenizer.decode(row, mode) for row in ids], "ids": ids}


def train(
    params: Params, packed: Packed, tokenizer: TextTokenizer, state: TrainingState
) -> tuple[SEDD, Fitted]:
    """The trained model, with what was logged."""
    device = pick_device(params.device)
    if params.train.init is not None:
        check_tokenizer(from_root(params.train.init), tokenizer.sha256)
    model = new_model(params, packed.meta, device)
    if params.train.compile:
        check_compile(device)
        model.network.compile_blocks()
    # Evenly spread: a split in alphabetical order begins with names of one kind.
    stride = max(1, len(packed.test) // params.train.eval_blocks)
    blocks = packed.test[::stride][: params.train.eval_blocks]
    held_out = torch.from_numpy(blocks.astype("int64")).to(device)
    with pushing(params.publish.during_training, state.folder, push_request(params)) as push:
        fitted = fit(
            ScoreEntropy(model),
            packed.train,
            Settings(**params.train.model_dump(include=set(Settings.__annotations__))),
            Watch(
                lambda: held_out_loss(model, held_out, params.train),
                lambda step: samples_at(step, model, tokenizer, packed.meta.mode, params, device),
                params.train.sample_every,
                from_start=params.train.init is not None,
                on_snapshot=push,
            ),
            device=device,
            state=state,
            desc="train",
        )
    free_gradient_memory()
    return model, fitted


def push_request(params: Params) -> dict[str, Any]:
    """What the process that sends snapshots has to know of params.yaml."""
    return {"repo": params.publish.repo, "network": params.network.model_dump()}


@reported
def main(
    packed: Path, tokenizer: Path, checkpoint: Path, snapshots: Path, run: Path, losses: Path
) -> None:
    """Train, and write the checkpoint, the snapshots, the run's facts and the loss curve."""
    params = load_params()
    blocks, text = Packed.open(packed), TextTokenizer.load(tokenizer)
    config = model_config(params, blocks.meta.vocab_size, blocks.meta.length)
    identity = {
        "model": config.asdict(),
        "train": params.train.model_dump(exclude={"checkpoint_every"}),
        "data": hash_files([packed / "train.bin", packed / "test.bin"]),
        "tokenizer": text.sha256,
        "init": init_sha256(params),
        "code": hash_files([*CODE, Path(__file__)]),
        "torch": torch.__version__,
    }
    with training_state("train", identity) as state, memory_for("train.batch_size"):
        model, fitted = train(params, blocks, text, state)
        sha256 = save_checkpoint(
            checkpoint,
            model,
            tokenizer=tokenizer,
            tokenizer_sha256=text.sha256,
            text_lengths=blocks.meta.text_lengths,
        )
        write_jsonl(snapshots, fitted.snapshots)
        write_losses(losses, fitted.losses)
        num_tokens = params.train.num_steps * params.train.batch_size * blocks.meta.length
        write_json(
            run,
            {
                "num_params": sum(p.numel() for p in model.network.parameters()),
                "num_tokens": num_tokens,
                "num_steps": params.train.num_steps,
                "seconds": fitted.seconds,
                "tokens_per_second": num_tokens / fitted.seconds if num_tokens else None,
                "device": device_label(pick_device(params.device)),
                "torch": torch.__version__,
                "sha256": sha256,
                "init_sha256": identity["init"],
                "fingerprint": state.folder.name,
            },
        )
        state.finish()


if __name__ == "__main__":
    typer.run(main)
