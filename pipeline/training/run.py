"""A model trained as params.yaml says, whatever its method."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pipeline.checkpoints.checkpoint import check_tokenizer, warm_start, weights_sha256
from pipeline.config.params import Params
from pipeline.data.packed import Meta, Packed
from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.device import check_compile, pick_device, pick_precision
from pipeline.errors import CheckpointError
from pipeline.files import check_revision, from_root
from pipeline.kernels.gradient_memory import free_gradient_memory
from pipeline.kernels.precision import Precision, products_in
from pipeline.methods.protocol import Model
from pipeline.methods.registry import method_named, method_of
from pipeline.progress import progress
from pipeline.scale.seeds import step_seed
from pipeline.scale.world import ALONE, World
from pipeline.training.loop import Watch, fit
from pipeline.training.settings import Settings
from pipeline.training.state import TrainingState


def new_model(params: Params, meta: Meta, device: torch.device) -> Model:
    """The model as training starts with it, not compiled."""
    torch.manual_seed(params.train.seed)
    method = method_named(params.method)
    config = method.config_of(params, meta.vocab_size, meta.length, meta.labels)
    if params.train.init is None:
        model = method.build(config).to(device)
    else:
        model = warm_start(config, from_root(params.train.init), device)
    model.network.activation_checkpointing = params.train.activation_checkpointing
    return model


def init_sha256(params: Params) -> str | None:
    """Hash of the weights that training starts from; None where they are random.

    Raises:
        CheckpointError: there are none where `train.init` says.
        PipelineError: they are others than those pinned.
    """
    if params.train.init is None:
        return None
    folder = from_root(params.train.init)
    try:
        sha256 = weights_sha256(folder)
    except CheckpointError as error:
        raise CheckpointError(f"train.init: {error}") from None
    check_revision("train.init_revision", folder, params.train.init_revision)
    return sha256


@torch.no_grad()
def held_out_loss(
    model: Model,
    blocks: torch.Tensor,
    *,
    batch_size: int,
    seed: int,
    precision: Precision,
    world: World = ALONE,
) -> float:
    """Mean loss of blocks [N, L], on the CPU, in nats a block, always under the same noise.

    As in training they come with their labels, [N, K + L], some of which are left out. Ranks of
    `world` share the batches.
    """
    objective, device = method_of(model).objective(model), model.device
    generator = torch.Generator().manual_seed(step_seed(seed, "evaluate", 0))
    drawn = objective.draw(blocks, generator)
    pieces = list(zip(*(torch.split(part, batch_size) for part in drawn), strict=True))

    def nats(index: int) -> float:
        return objective.loss(*(part.to(device) for part in pieces[index])).item()

    with products_in(precision, device):
        return sum(world.in_order(len(pieces), nats)) / len(blocks)


def samples_at(
    step: int,
    model: Model,
    tokenizer: TextTokenizer,
    mode: Mode,
    params: Params,
    precision: Precision,
) -> dict[str, Any]:
    """A snapshot of samples, the same for the same step and weights: their texts and ids."""
    seed, num_steps = step_seed(params.train.seed, "snapshot", step), params.train.sample_steps
    # Of a few large texts it takes minutes.
    bar = progress(total=num_steps + 2, desc="snapshot", unit="step", delay=10)

    def watch(step: int, t: float, xt: torch.Tensor) -> None:
        bar.update()

    with bar, products_in(precision, model.device):
        samples = method_of(model).sample(
            model,
            params.train.sample_num,
            num_steps=num_steps,
            predictor="auto",
            generator=torch.Generator(model.device).manual_seed(seed),
            on_state=watch,
        )
    ids = samples.tokens.tolist()
    return {"texts": [tokenizer.decode(row, mode) for row in ids], "ids": ids}


def settings_of(params: Params, device: torch.device) -> Settings:
    """How to train on `device`.

    Raises:
        ParamsError: the device cannot compute so.
    """
    values = params.train.model_dump(include=set(Settings.__annotations__))
    precision = pick_precision(params.train.precision, device, "train.precision")
    return Settings(**values | {"precision": precision})


def train(
    params: Params,
    packed: Packed,
    tokenizer: TextTokenizer,
    state: TrainingState,
    on_snapshot: Callable[[dict[str, Any]], object],
    world: World = ALONE,
) -> tuple[Model, float]:
    """The trained model, and the seconds that it took.

    Args:
        state: where training stands, and where it and what is logged are kept.
        on_snapshot: called with each new row of snapshots.
        world: whose ranks all train the same model.
    """
    device = pick_device(params.device)
    if params.train.init is not None:
        check_tokenizer(from_root(params.train.init), tokenizer.sha256)
    model = new_model(params, packed.meta, device)
    if params.train.compile:
        check_compile(params.train.compile, device)
        model.network.compile_blocks(as_graphs=params.train.compile == "graphs")
    blocks = packed.some_held_out(params.train.eval_blocks)
    held_out = torch.from_numpy(blocks.astype("int64"))
    settings = settings_of(params, device)
    evaluate = partial(
        held_out_loss,
        model,
        held_out,
        batch_size=settings.batch_size // settings.accumulate,
        seed=settings.seed,
        precision=settings.precision,
        world=world,
    )
    seconds = fit(
        method_of(model).objective(model),
        packed.train_rows,
        settings,
        Watch(
            evaluate,
            lambda step: samples_at(
                step, model, tokenizer, packed.meta.mode, params, settings.precision
            ),
            params.train.sample_every,
            from_start=params.train.init is not None,
            on_snapshot=on_snapshot,
        ),
        device=device,
        state=state,
        desc="train",
        overlap=packed.overlaps,
        world=world,
    )
    free_gradient_memory()
    return model, seconds
