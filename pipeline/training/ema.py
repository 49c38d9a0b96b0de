"""Exponential moving average of weights, warmed up as in the paper's code."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.scale.world import World, parts


class Ema:
    """Averages of a module's parameters; what is evaluated and sampled.

    The decay of the n-th update is min(decay, (1 + n) / (10 + n)), so that early averages forget
    the initial weights.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._parameters: list[Tensor] = list(module.parameters())
        self.averages = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's present parameters."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(parts(self.averages), parts(self._parameters), 1 - decay)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Put the averages in the place of the parameters."""
        torch._foreach_copy_(parts(self._parameters), parts(self.averages))

    @contextmanager
    def in_module(self) -> Iterator[None]:
        """Let the module hold the averages for a while."""
        kept = [parameter.detach().clone() for parameter in self._parameters]
        self.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(parts(self._parameters), parts(kept))

    @torch.no_grad()
    def largest(self, world: World) -> float:
        """The largest of all averages, whatever its sign, or one that is not finite.

        Ranks of a `world` that divides them ask together.
        """
        held = [part for part in parts(self.averages) if part.numel()]
        found: list[float] = [torch.stack(torch._foreach_norm(held, math.inf)).max().item()]
        if world.divides:
            found = world.gather(found[0])
        return next((value for value in found if not math.isfinite(value)), max(found))

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"num_updates": self.num_updates, "averages": self.averages}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self.num_updates = state["num_updates"]
        torch._foreach_copy_(parts(self.averages), parts(state["averages"]))
