"""Training in its plain formulation: the bench's opponent."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.plain import plain_score_entropy
from pipeline.methods.estimates import stratified_times
from pipeline.methods.sedd.graph import sample_transition
from pipeline.methods.sedd.model import SEDD
from pipeline.training.ema import Ema
from pipeline.training.schedule import learning_rate
from pipeline.training.settings import Settings

Loss = Callable[[Tensor, torch.Generator], Tensor]
"""(x0 [B, L], source of randomness) -> mean nats a sequence."""


def plain_loss(model: SEDD) -> Loss:
    """What SEDD is trained by, in its plain formulation."""

    def loss(x0: Tensor, generator: torch.Generator) -> Tensor:
        t = stratified_times(len(x0), model.t_min, generator)
        xt = sample_transition(model.graph, x0, model.noise.sigma(t), generator)
        return plain_score_entropy(model, x0, xt, t).sum(-1).mean()

    return loss


class PlainTrainer:
    """The plain training step, with PyTorch's fused optimiser and multi-tensor passes."""

    def __init__(
        self, model: nn.Module, loss: Loss, settings: Settings, precision: str = "float32"
    ) -> None:
        self.model, self.loss = model, loss
        self.settings = settings
        self.precision = precision
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        self.generator = torch.Generator(self.device).manual_seed(settings.seed)
        decayed = [parameter for parameter in self.parameters if parameter.dim() >= 2]
        others = [parameter for parameter in self.parameters if parameter.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            fused=True,
        )
        self.ema = Ema(model, settings.ema)
        self.step = 0

    def train_step(self, x0: Tensor) -> Tensor:
        """One optimiser step on x0 [B, L]; returns the loss, nats a sequence."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.step,
                peak=self.settings.lr,
                warmup_steps=self.settings.warmup_steps,
                num_steps=self.settings.num_steps,
                decay=self.settings.decay,
            )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            loss = self.loss(x0, self.generator)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, self.settings.clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()
        self.step += 1
        return loss.detach()
