"""How ranks share a training, as `World.strategy` says; nothing of it is loaded by one process."""

from typing import TYPE_CHECKING

import torch

from pipeline.scale.world import World
from pipeline.training.settings import Settings

if TYPE_CHECKING:
    from pipeline.methods.protocol import Objective
    from pipeline.scale.ddp import Ranks
    from pipeline.scale.fsdp import Shards


def shards_of(
    objective: "Objective", settings: Settings, device: torch.device, world: World
) -> "Shards | None":
    """The objective with its weights divided, from now on, among ranks that divide them."""
    if not world.divides:
        return None
    from pipeline.scale.fsdp import Shards

    return Shards(
        objective.module,
        objective.loss,
        objective.divided(),
        size=world.size,
        device=device,
        in_order=settings.reduction == "fixed",
    )


def ranks_of(objective: "Objective", settings: Settings, world: World) -> "Ranks | None":
    """The objective on ranks that hold all weights each."""
    if world.size == 1:
        return None
    from pipeline.scale.ddp import Ranks

    return Ranks(
        objective.module,
        objective.loss,
        size=world.size,
        num_pieces=settings.accumulate // world.size,
        in_order=settings.reduction == "fixed",
    )


def adamw_of(device: torch.device, world: World) -> type[torch.optim.AdamW]:
    """The optimiser of weights that may be divided."""
    if world.divides and device.type == "cpu":
        from pipeline.scale.adamw import AdamWOnShards

        return AdamWOnShards
    return torch.optim.AdamW
