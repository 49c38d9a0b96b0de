"""A model trained as params.yaml says, whatever its method."""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.checkpoints.checkpoint import check_tokenizer, warm_start, weights_sha256
from pipeline.config.params import Params
from pipeline.data.packed import Meta, Packed
from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.device import check_compile, pick_device
from pipeline.files import from_root
from pipeline.kernels.gradient_memory import free_gradient_memory
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_named, method_of
from pipeline.training.loop import Fitted, Settings, Watch, fit
from pipeline.training.schedule import step_seed
from pipeline.training.state import TrainingState


def new_model(params: Params, meta: Meta, device: torch.device) -> Model:
    """The model as training starts with it, not compiled."""
    torch.manual_seed(params.train.seed)
    method = method_named(params.method)
    model = method.build(method.config_of(params, meta.vocab_size, meta.length)).to(device)
    if params.train.init is not None:
        warm_start(model, from_root(params.train.init))
    model.network.activation_checkpointing = params.train.activation_checkpointing
    return model


def init_sha256(params: Params) -> str | None:
    """Hash of the weights that training starts from; None where they are random."""
    return None if params.train.init is None else weights_sha256(from_root(params.train.init))


@torch.no_grad()
def held_out_loss(model: Model, blocks: torch.Tensor, *, batch_size: int, seed: int) -> float:
    """Mean loss of blocks [N, L] in nats a block, always under the same noise."""
    objective = method_of(model).objective(model)
    generator = torch.Generator(blocks.device).manual_seed(step_seed(seed, "evaluate", 0))
    drawn = objective.draw(blocks, generator)
    pieces = zip(*(torch.split(part, batch_size) for part in drawn), strict=True)
    return sum(objective.loss(*piece).item() for piece in pieces) / len(blocks)


def samples_at(
    step: int,
    model: Model,
    tokenizer: TextTokenizer,
    mode: Mode,
    params: Params,
    device: torch.device,
) -> dict[str, Any]:
    """A snapshot of samples, the same for the same step and weights: their texts and ids."""
    seed = step_seed(params.train.seed, "snapshot", step)
    samples = method_of(model).sample(
        model,
        params.train.sample_num,
        num_steps=params.train.sample_steps,
        predictor="auto",
        generator=torch.Generator(device).manual_seed(seed),
    )
    ids = samples.tokens.tolist()
    return {"texts": [tokenizer.decode(row, mode) for row in ids], "ids": ids}


def train(
    params: Params,
    packed: Packed,
    tokenizer: TextTokenizer,
    state: TrainingState,
    on_snapshot: Callable[[dict[str, Any]], object],
) -> tuple[Model, Fitted]:
    """The trained model, with what was logged.

    Args:
        state: where training stands, and where it is kept.
        on_snapshot: called with each new row of snapshots.
    """
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
    batch_size, seed = params.train.batch_size, params.train.seed
    fitted = fit(
        method_of(model).objective(model),
        packed.train,
        Settings(**params.train.model_dump(include=set(Settings.__annotations__))),
        Watch(
            lambda: held_out_loss(model, held_out, batch_size=batch_size, seed=seed),
            lambda step: samples_at(step, model, tokenizer, packed.meta.mode, params, device),
            params.train.sample_every,
            from_start=params.train.init is not None,
            on_snapshot=on_snapshot,
        ),
        device=device,
        state=state,
        desc="train",
    )
    free_gradient_memory()
    return model, fitted
