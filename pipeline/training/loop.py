"""The training loop: one for every method, resumable to the bit.

All randomness of a step comes from the seed and the step's number, and the order of the data from
the seed and the epoch's, so that a resumed run needs no generator's state.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy.typing as npt
import torch
from torch import nn

from pipeline.errors import Interrupted, PipelineError
from pipeline.kernels.precision import same_bytes
from pipeline.progress import progress
from pipeline.scale.world import ALONE, World, check_same_step
from pipeline.training.ahead import Ahead, Chosen
from pipeline.training.ema import Ema
from pipeline.training.gradient import accumulate_gradient, gradient_norm
from pipeline.training.interrupts import stop_requested
from pipeline.training.rows import Row
from pipeline.training.schedule import Order, Windows, learning_rate, piece_seeds
from pipeline.training.settings import Settings
from pipeline.training.strategy import adamw_of, ranks_of, shards_of

if TYPE_CHECKING:
    from pipeline.methods.protocol import Objective
    from pipeline.training.state import TrainingState

T = TypeVar("T")


@dataclass(frozen=True)
class Watch:
    """How training is looked at; its functions are called with the averages in the module.

    Attributes:
        evaluate: held-out nats a block.
        snapshot: samples at a step, as their texts and ids; None for a method without samples.
        sample_every: steps between snapshots.
        from_start: also look before the first step, where the weights are not random.
        on_snapshot: called with each new row of snapshots.
    """

    evaluate: Callable[[], float]
    snapshot: Callable[[int], Row] | None = None
    sample_every: int | None = None
    from_start: bool = False
    on_snapshot: Callable[[Row], object] = lambda row: None


class Trainer:
    """One run: its weights, optimiser and averages, and how long it took so far."""

    def __init__(
        self,
        objective: "Objective",
        settings: Settings,
        device: torch.device,
        world: World = ALONE,
    ) -> None:
        self.objective = objective
        self.settings = settings
        self.device = device
        self.world = world
        self.step, self.seconds = 0, 0.0
        self._num_pieces = settings.accumulate // world.size
        self._shards = shards_of(objective, settings, device, world)
        self._ranks = self._shards or ranks_of(objective, settings, world)
        self.ema = Ema(objective.module, settings.ema)
        decayed = [p for p in objective.module.parameters() if p.dim() >= 2]
        plain = [p for p in objective.module.parameters() if p.dim() < 2]
        self.optimizer = adamw_of(device, world)(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            fused=True,
        )
        # Losses stay on the device until they are logged: reading one waits for the step.
        self._window = torch.zeros((), device=device)
        self._window_steps = 0
        self._ahead = Ahead(objective, device, settings, world)

    def train_step(self, blocks: npt.NDArray[Any], order: Chosen) -> None:
        """One optimiser step."""
        settings = self.settings
        lr = self.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        pieces = self._ahead.take(self.step, blocks, order)
        with same_bytes(settings.deterministic, self.device):
            self._window += accumulate_gradient(
                self.objective,
                pieces,
                settings.precision,
                reduction=settings.reduction,
                seeds=self.world.part(piece_seeds(settings.seed, self.step, settings.accumulate)),
                ranks=self._ranks,
            )
        parameters = list(self.objective.module.parameters())
        nn.utils.clip_grads_with_norm_(
            parameters, settings.clip, gradient_norm(parameters), foreach=True
        )
        self.optimizer.step()
        self.objective.finish_step(partial(self.world.rows, num_pieces=self._num_pieces))
        self.ema.update()
        self._window_steps += 1
        self.step += 1

    def learning_rate(self, step: int) -> float:
        """Of a step, counted from 0."""
        settings = self.settings
        return learning_rate(
            step,
            peak=settings.lr,
            warmup_steps=settings.warmup_steps,
            num_steps=settings.num_steps,
            decay=settings.decay,
        )

    def look(self, watch: Watch, state: "TrainingState") -> float | None:
        """Evaluate, log and sample where this step asks for it; returns the loss if it was logged.

        Rows are added to the `state`'s.

        Raises:
            PipelineError: a loss or a weight is not finite.
        """
        settings = self.settings
        last = self.step == settings.num_steps
        evaluates = last or self.step % settings.eval_every == 0
        samples = watch.sample_every is not None and (last or self.step % watch.sample_every == 0)
        if not (evaluates or samples or self.step % settings.log_every == 0):
            return None
        with self.ema.in_module():
            self.objective.module.eval()
            eval_loss = self._whole(watch.evaluate) if evaluates or samples else None
            row = self._row(eval_loss)
            if self.world.is_first:
                state.losses.append(row)
            loss: float | None = row["train_loss"]
            if samples and watch.snapshot is not None:
                seen = {"step": self.step, "loss": loss, "eval_loss": eval_loss}
                seen |= self._whole(partial(watch.snapshot, self.step))
                if self.world.is_first:
                    state.snapshots.append(seen)
                watch.on_snapshot(seen)
        return loss

    def _row(self, eval_loss: float | None) -> Row:
        """What is logged, with the mean loss of the steps since the last row."""
        train_loss = self._window.item() / self._window_steps if self._window_steps else None
        # What the last update made of the weights is in no training loss yet.
        largest = self.ema.largest(self.world)
        for what, value in (
            ("loss", train_loss),
            ("largest weight", largest),
            ("held-out loss", eval_loss),
        ):
            if value is not None and not math.isfinite(value):
                raise PipelineError(
                    f"training diverged: the {what} is {value} at step {self.step}; "
                    "lower lr or clip"
                )
        lr = self.learning_rate(self.step - 1) if self.step else None
        self._window.zero_()
        self._window_steps = 0
        return {"step": self.step, "train_loss": train_loss, "eval_loss": eval_loss, "lr": lr}

    def _whole(self, compute: Callable[[], T]) -> T:
        """What is computed with weights that ranks may hold in parts."""
        return compute() if self._shards is None else self._shards.whole(compute)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs but rows."""
        return {
            "step": self.step,
            "module": self.objective.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "window": self._window,
            "window_steps": self._window_steps,
            "seconds": self.seconds,
        }

    def gather(self) -> None:
        """End training: weights that are divided become whole on the first rank's CPU."""
        if self._shards is not None:
            self._shards.gather(here=self.world.is_first)

    def like(self, saved: dict[str, Any]) -> dict[str, Any]:
        """A state of the shape of `saved`, in tensors of this trainer, which may be written to."""
        own = self.state_dict()
        weights = [each for group in self.optimizer.param_groups for each in group["params"]]
        own["optimizer"]["state"] = {
            index: {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(weights[index]),
                "exp_avg_sq": torch.zeros_like(weights[index]),
            }
            for index in saved["optimizer"]["state"]
        }
        return own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.step = state["step"]
        self.objective.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self._window.copy_(state["window"])
        self._window_steps = state["window_steps"]
        self.seconds = state["seconds"]


def fit(
    objective: "Objective",
    blocks: npt.NDArray[Any],
    settings: Settings,
    watch: Watch,
    *,
    device: torch.device,
    state: "TrainingState",
    desc: str,
    overlap: bool = False,
    world: World = ALONE,
) -> float:
    """Train on blocks [N, L] from where `state` stands; the module ends with the averages.

    Args:
        objective: what is trained; its module is on `device`.
        blocks: token ids, an array or a memory map.
        settings: how.
        watch: how it is looked at meanwhile.
        device: where.
        state: checkpoints are written here every `checkpoint_every` steps and at the end, and what
            was logged.
        desc: the name shown with progress.
        overlap: whether blocks are windows that overlap: each step then draws some at random, and
            else every block comes once an epoch.
        world: whose ranks share the pieces of each step; all else they all do alike, but what
            `watch` shares.
    Returns:
        seconds spent, all resumed pieces together.
    Raises:
        Interrupted: SIGTERM or SIGINT came; the state is saved.
        PipelineError: a loss or a weight is not finite.
    """
    with same_bytes(settings.deterministic, device):
        trainer = Trainer(objective, settings, device, world)
    saved = state.load(device)
    check_same_step(world, None if saved is None else saved["step"])
    if saved is not None:
        trainer.load_state_dict(state.fitted(saved, trainer.like))
        # The optimiser shares its moments; the rest would be held beside what it was copied to.
        del saved
    elif watch.from_start:
        trainer.look(watch, state)
    order = (Windows if overlap else Order)(len(blocks), settings.seed)
    started = time.monotonic() - trainer.seconds
    bar = progress(
        total=settings.num_steps,
        done=trainer.step,
        desc=desc,
        unit="step",
        hidden=not world.is_first,
    )
    with stop_requested() as stopping, bar:
        while trainer.step < settings.num_steps:
            objective.module.train()
            trainer.train_step(blocks, order)
            bar.update()
            loss = trainer.look(watch, state)
            if loss is not None:
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            stop, last = world.agree(stopping()), trainer.step == settings.num_steps
            if stop or last or trainer.step % settings.checkpoint_every == 0:
                trainer.seconds = time.monotonic() - started
                # On a CPU a copy would cost memory, and writing it cores that train.
                beside = device.type == "cuda" and not (stop or last)
                state.save(trainer.state_dict(), beside=beside)
            if stop and not last:
                raise Interrupted(
                    f"{desc} stopped at step {trainer.step} of {settings.num_steps}; "
                    "the next run goes on from there"
                )
    trainer.ema.copy_to_module()
    trainer.gather()
    objective.module.eval()
    return trainer.seconds
