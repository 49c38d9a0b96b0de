"""AdamW on weights that are divided among ranks, on a CPU, to the bytes of one process."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

UNIT = 16
"""Numbers that PyTorch's kernel goes through together, or a multiple of those."""


class AdamWOnShards(torch.optim.AdamW):
    """The fused kernel, which rounds the last numbers of a tensor that fill no unit as no others.

    A part of a weight is therefore laid out as it lies in the whole, with zeros around it.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; a weight without a gradient is passed over."""
        for group in self.param_groups:
            weights: list[Any] = [each for each in group["params"] if each.grad is not None]
            steps: list[Tensor] = []
            lists: list[list[Tensor]] = [[], [], [], []]
            laid_out: list[tuple[Tensor, Tensor]] = []
            for weight in weights:
                state = self._state_of(weight)
                state["step"] += 1
                of_it = (weight, weight.grad, state["exp_avg"], state["exp_avg_sq"])
                before, after = _around(weight)
                for place, part in enumerate(each.to_local().view(-1) for each in of_it):
                    if before or after:
                        padded = F.pad(part, (before, after))
                        laid_out.append((part, padded[before : before + len(part)]))
                        part = padded
                    lists[place].append(part)
                steps.append(state["step"])
            beta1, beta2 = group["betas"]
            torch._fused_adamw_(
                lists[0],
                lists[1],
                lists[2],
                lists[3],
                [],
                steps,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
            for part, found in laid_out:
                part.copy_(found)

    def _state_of(self, weight: DTensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(weight) for _ in range(2))
        return state


def _around(weight: DTensor) -> tuple[int, int]:
    """How many numbers before and after this rank's part fill up its first and last unit."""
    num, mesh = weight.numel(), weight.device_mesh
    rows = -(-len(weight) // mesh.size()) * mesh.get_local_rank()
    first = min(rows, len(weight)) * (num // len(weight))
    last = first + weight.to_local().numel()
    return first % UNIT, min(-last % UNIT, num - last)
