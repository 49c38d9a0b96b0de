"""A toy distribution with labels, its exact network, and guidance by definition."""

import torch
from chains import small_support
from torch import Tensor, nn
from toy import AnsweringNetwork, toy_config, toy_distribution

from pipeline.methods.sedd.model import SEDD

LABELS = {"kind": ["a", "b"], "side": ["left"]}
SHARES = {"a": 0.75, "b": 0.25}


def texts_of(kind: str, length: int = 3) -> Tensor:
    """p(text given kind), [3] * length."""
    return toy_distribution(3, length, seed=1 + "ab".index(kind))


def mixture(length: int = 3) -> Tensor:
    """p(text), whatever its kind."""
    return sum(share * texts_of(kind, length) for kind, share in SHARES.items())  # type: ignore


def exact(p0: Tensor, graph: str = "absorb", **changes: object) -> SEDD:
    """A model without labels whose network is exact for p0."""
    model, _ = small_support(graph, "conditional", p0=p0, length=p0.dim(), **changes)
    return model


class ByKind(AnsweringNetwork):
    """Answers for what is said of the kind: one network each, and one for none; no side matters."""

    def __init__(self, networks: list[nn.Module], num_outputs: int) -> None:
        super().__init__(num_outputs)
        self.networks = nn.ModuleList(networks)

    def hidden_given(
        self,
        labels: Tensor | None,
        xt: Tensor,
        sigma: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        kinds = torch.zeros(1, dtype=torch.int64) if labels is None else labels[:, 0]
        answers = torch.stack([network.forward(xt, sigma) for network in self.networks])
        answer = answers[kinds.expand(len(xt)), torch.arange(len(xt))]
        answer = answer if at is None else answer[at]
        return answer.clamp(min=-1e300)

    def forward(self, xt: Tensor, sigma: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        return self.hidden(xt, sigma, at)


def labelled(graph: str = "absorb", length: int = 3, **changes: object) -> SEDD:
    """A model with LABELS whose network is exact for both kinds, and for none said."""
    config = toy_config(graph, "conditional", labels=LABELS, length=length, **changes)
    model = SEDD(config).double().eval()
    laws = [mixture(length), *(texts_of(kind, length) for kind in SHARES)]
    networks = [exact(p0, graph, **changes).network for p0 in laws]
    model.network = ByKind(networks, 3)  # type: ignore[assignment]
    return model


def tilted(kind: str, w: float, graph: str = "absorb", **changes: object) -> SEDD:
    """A model without labels whose p(x0 | xt) is by definition that of guidance w."""
    model, without, given = (
        exact(p0, graph, **changes) for p0 in (mixture(), mixture(), texts_of(kind))
    )

    def log_p(xt: Tensor, at: Tensor | None = None, sigma: Tensor | None = None) -> Tensor:
        both = (1 - w) * without.log_p(xt, at, sigma) + w * given.log_p(xt, at, sigma)
        return both.log_softmax(-1)

    model.log_p = log_p  # type: ignore[method-assign]
    return model
