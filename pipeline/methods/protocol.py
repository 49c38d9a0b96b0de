"""What a method is for everyone else: stages, commands, training and evaluation know this page.

A method is a room beside this file with a module `method`, whose functions are those of `Method`;
`registry` finds it by the name that `method` has in params.yaml.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.methods.draws import OnState, Samples
from pipeline.methods.estimates import Bound, Texts
from pipeline.methods.samplers import PLAIN, UNCONDITIONAL, Conditioning, Stepping
from pipeline.network.trunk import Trunk
from pipeline.scale.units import UNKEPT, Units

if TYPE_CHECKING:
    from pipeline.config.params import Params


NO_LABELS: Mapping[str, list[str]] = MappingProxyType({})
WITH_LABELS = {"only_with": "labels"}
"""Metadata of fields of a configuration that checkpoints of models without labels lack."""


LARGEST = 2**20
"""Of any size of a model."""


def wrong_sizes(config: Any, names: Iterable[str]) -> list[str]:
    """What is wrong with the fields of a configuration that are sizes, a line each."""
    wrong = [
        f"{name} must lie in 1..{LARGEST} (got {size})"
        for name in names
        if not 1 <= (size := getattr(config, name)) <= LARGEST
    ]
    if not wrong and (config.width % config.num_heads or config.width // config.num_heads % 2):
        wrong.append(
            f"num_heads ({config.num_heads}) must divide width ({config.width}) into an even "
            "number of parts' width"
        )
    return wrong


class Model(nn.Module):
    """A model of a method; `network` is what is saved, averaged and compiled."""

    config: Any
    """Of its method's `Config`."""
    length: int
    network: Trunk
    labels: Mapping[str, Sequence[str]] = NO_LABELS
    """What values of labels are called, by column, of a model that was trained with K of them."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device


def own(rows: Tensor) -> Tensor:
    """Rows [b, ...] of this process are those of the whole batch."""
    return rows


class Objective(Protocol):
    """What can be trained."""

    @property
    def module(self) -> nn.Module:
        """The network whose parameters are optimised."""

    def divided(self) -> Sequence[nn.Module]:
        """To be told that ranks will hold a part of every weight of `module` each.

        Returns:
            its layers: what is only ever called as a whole, by then as often on all ranks. Their
            weights are whole only while they compute.
        """
        ...

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """All randomness of a step for the whole batch x0 [B, L]; each tensor is [B, ...].

        Of a model with K labels each row has these first, [B, K + L].
        """

    def located(self, *drawn: Tensor) -> tuple[Tensor, ...]:
        """Rows of what `draw` returned, and behind them what only values can tell, as indices.

        A GPU would have to be waited for to learn it, so it is found on the CPU before the rows
        are copied there (`training.ahead`); `loss` takes rows with it and without.
        """
        ...

    def loss(self, *drawn: Tensor) -> Tensor:
        """Nats, a scalar: the sum over rows of what `draw` returned."""

    def finish_step(self, of_all: Callable[[Tensor], Tensor] = own) -> None:
        """What is left to do once the optimiser has moved, with the gradients of `module`.

        It clears them; their memory may be used again: keep none of them.

        Args:
            of_all: makes rows [b, ...] of this process those of the whole batch [B, ...], where
                other processes have the others.
        """


@dataclass(frozen=True)
class Noised:
    """One text, noised, for a person to look at.

    Attributes:
        xt: as tokens [1, L]; ids past the vocabulary are states of the method's own.
        state: as the model takes it [1, L, ...].
        facts: name and value of whatever else says how far it is from the text.
    """

    xt: Tensor
    state: Tensor
    facts: Mapping[str, str]


class Method(Protocol):
    """The functions of a method's module `method`."""

    Config: type[Any]
    """All that defines a model but its weights: a frozen dataclass, kept in checkpoints.

    It has `method`, the name; `vocab_size`, tokens without states of the method's own; `length`,
    tokens a sequence at most; `num_blocks` of the network; and `asdict()`, the fields as plain
    values. One whose values are out of range is refused with ValueError that names the fields.
    """
    ARCHITECTURE: Mapping[str, str]
    """Fields of the configuration in which weights must agree -> where params.yaml decides them."""

    def config_of(
        self,
        params: "Params",
        vocab_size: int,
        length: int,
        labels: Mapping[str, list[str]] = NO_LABELS,
    ) -> Any:
        """The configuration of the model that params.yaml asks for.

        Args:
            labels: what the values of `data.labels` are called, by column.
        Raises:
            ValueError: there are labels, and models of this method take none.
        """

    def build(self, config: Any) -> Model:
        """A model with new weights; ValueError where the configuration describes none."""

    def warm_started(self, config: Any, found: Any) -> Any:
        """`config` with what the weights of a model of configuration `found` bring along."""

    def objective(self, model: Any) -> Objective:
        """What the training loop trains."""

    def cannot_condition(self, model: Any) -> str | None:
        """Why fixed positions do not condition the model, None where they do."""

    def resolve(
        self,
        model: Any,
        predictor: str,
        temperature: float,
        top_p: float,
        stepping: Stepping = PLAIN,
        conditioning: Conditioning = UNCONDITIONAL,
    ) -> str:
        """The sampler that is used where `auto` is asked for.

        Raises:
            ValueError: the model has no such sampler, or a value is out of range or not for it:
                everything that is wrong.
        """

    def sample(
        self,
        model: Any,
        num: int,
        *,
        num_steps: int,
        predictor: Any,
        generator: torch.Generator,
        length: int | None = None,
        fixed: Tensor | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stepping: Stepping = PLAIN,
        conditioning: Conditioning = UNCONDITIONAL,
        on_state: OnState | None = None,
    ) -> Samples:
        """Draw `num` sequences in `num_steps` steps.

        Args:
            fixed: tokens [L] that are imposed, FREE where the model decides.
            on_state: called with (step, t, xt [num, L]) before each step and at the end.
        Raises:
            ValueError: what `resolve` refuses, or a number that is out of range.
        """

    def draw_bound(
        self,
        model: Any,
        x0: Texts,
        *,
        num_replicates: int,
        num_draws: int,
        batch_size: int,
        seed: int,
        known: Tensor | None = None,
        labels: Texts | None = None,
        units: Units = UNKEPT,
    ) -> Bound:
        """The bound on -log p of texts x0 [N, L], every term by name, on the CPU.

        The figure of a text depends on the seed, N and batch_size, not on who draws which unit.

        Args:
            labels: of a model that has `labels`: those of the texts as numbers [N, K], from 1, 0 if
                not said, given which they are bounded; None bounds them without. The noise is the
                same.
            known: positions [N, L] that are shown: what is bounded is -log p of the others given
                these, of a model that `cannot_condition` says nothing against.
            units: how batches of texts in replicates are gone through.
        """

    def likeliest(self, model: Any, fixed: Tensor) -> Tensor:
        """The likeliest token [B, L] at each FREE position, given the fixed ones [B, L] alone.

        All are asked for at once, each for itself.

        Raises:
            ValueError: what the model says depends on more than the fixed tokens.
        """

    def noised(self, model: Any, x0: Tensor, t: float, generator: torch.Generator) -> Noised:
        """x0 [1, L] at time t in [0, 1]; the generator is of the CPU: a seed means one noise."""

    def position_nats(
        self, model: Any, x0: Tensor, noised: Noised, t: float
    ) -> tuple[Tensor, Tensor]:
        """What the model says of a noised text [1, L, ...], and its loss by position [1, L]."""
