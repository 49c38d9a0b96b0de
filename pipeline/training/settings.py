"""How one training is done."""

from dataclasses import dataclass

from pipeline.kernels.precision import Precision
from pipeline.training.gradient import Reduction
from pipeline.training.schedule import Decay


@dataclass(frozen=True)
class Settings:
    """How to train; the fields are those of params.yaml."""

    num_steps: int
    batch_size: int
    accumulate: int
    reduction: Reduction
    lr: float
    warmup_steps: int
    decay: Decay
    weight_decay: float
    beta1: float
    beta2: float
    clip: float
    ema: float
    precision: Precision
    deterministic: bool
    seed: int
    log_every: int
    eval_every: int
    checkpoint_every: int
