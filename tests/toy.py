"""Small models: exact ones of a distribution that can be enumerated, and random ones."""

import itertools
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

from pipeline.checkpoints.checkpoint import save_checkpoint
from pipeline.data.tokenizer import TextTokenizer
from pipeline.methods.embedding.model import EmbeddingConfig
from pipeline.methods.protocol import Model
from pipeline.methods.sedd.graph import Graph
from pipeline.methods.sedd.model import SEDD, SEDDConfig
from pipeline.network.guidance import Guided
from pipeline.training.settings import Settings

SETTINGS = Settings(
    num_steps=30,
    batch_size=8,
    accumulate=1,
    reduction="fixed",
    lr=0.05,
    warmup_steps=5,
    decay="linear",
    weight_decay=0.01,
    beta1=0.9,
    beta2=0.99,
    clip=1.0,
    ema=0.9,
    precision="float32",
    deterministic=False,
    seed=0,
    log_every=7,
    eval_every=10,
    checkpoint_every=4,
)
"""A training of a few steps."""


def rates_of(graph: Graph) -> Tensor:
    """Generator Q [V, V] in float64, written out: Q[x, y] is the rate from x to y, rows sum to 0.

    Absorb: all fall to the last state at rate 1. Uniform: to each state at rate 1 / V.
    """
    size = graph.num_states
    to = [1 / size] * size if graph.mask_id is None else [*[0.0] * (size - 1), 1.0]
    return torch.tensor([to] * size, dtype=torch.float64) - torch.eye(size, dtype=torch.float64)


def entropy_of(
    graph: Graph,
    log_score: Tensor,
    x0: Tensor,
    xt: Tensor,
    sigma: Tensor,
    weight: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """weight [B, L] * score entropy of a log score [B, L, V] at sigma [B], and the gradient by it.

    By the graph's own criterion, of all states at once; 0 where absorb left a token.
    """
    outputs = log_score.detach().flatten(0, 1).clone()
    weights = torch.zeros(xt.shape, dtype=outputs.dtype) + weight
    by_position = x0, xt, sigma[:, None].expand_as(xt), weights, torch.zeros_like(weights)
    states = slice(0, graph.num_states)
    nats = graph.score_entropy_(outputs, states, *(each.flatten() for each in by_position))
    has_loss = torch.ones_like(xt) if graph.mask_id is None else xt == graph.mask_id
    gradient = torch.where(has_loss.bool()[..., None], outputs.view(log_score.shape), 0.0)
    return torch.where(has_loss.bool(), nats.view(xt.shape), 0.0), gradient


def toy_config(graph: str, parameterization: str, **changes: object) -> SEDDConfig:
    values = {
        "graph": graph,
        "noise": "loglinear",
        "parameterization": parameterization,
        "vocab_size": 3,
        "length": 2,
        "width": 8,
        "num_blocks": 1,
        "num_heads": 2,
        "cond_dim": 4,
        "dropout": 0.0,
        "eps": 1e-9,
        "sigma_min": 1e-4,
        "sigma_max": 20.0,
        "t_min": 1e-5,
        "scale_by_sigma": False,
    }
    return SEDDConfig(**(values | changes))  # type: ignore[arg-type]


def random_model(graph: str, parameterization: str, *, std: float = 0.3, **changes: object) -> SEDD:
    """A model with random weights, of which none is 0."""
    torch.manual_seed(0)
    model = SEDD(toy_config(graph, parameterization, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def small_model(graph: str = "absorb", parameterization: str = "raw", dropout: float = 0.0) -> SEDD:
    """Such a model of two blocks."""
    return random_model(
        graph,
        parameterization,
        noise="geometric",
        vocab_size=11,
        length=16,
        width=24,
        num_blocks=2,
        num_heads=3,
        cond_dim=8,
        dropout=dropout,
        t_min=1e-3,
        scale_by_sigma=True,
    )


def small_embedding(**changes: Any) -> EmbeddingConfig:
    """The configuration of such a model of embedding diffusion, with a clock that learns."""
    usual: dict[str, Any] = {
        "vocab_size": 11,
        "length": 16,
        "width": 16,
        "num_blocks": 1,
        "num_heads": 2,
        "cond_dim": None,
        "dropout": 0.0,
        "dim": 4,
        "norm": "l2",
        "input": "evidence",
        "loss": "half",
        "clock": "nats",
        "g_min": -5.0,
        "g_max": 6.0,
        "self_condition": 0.25,
        "known": 0.5,
    }
    return EmbeddingConfig(**usual | changes)


def write_model(
    folder: Path, model: Model, tokenizer: TextTokenizer, text_lengths: list[int] | None = None
) -> Path:
    """Write a checkpoint with its tokenizer; its folder."""
    tokenizer.save(folder / "tokenizer")
    save_checkpoint(
        folder / "model",
        model,
        tokenizer=folder / "tokenizer",
        tokenizer_sha256=tokenizer.sha256,
        text_lengths=text_lengths,
    )
    return folder / "model"


def toy_distribution(vocab_size: int, length: int, seed: int = 0) -> Tensor:
    """Correlated probabilities [vocab_size] * length, float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn((vocab_size,) * length, generator=generator, dtype=torch.float64)
    return logits.flatten().softmax(0).view_as(logits)


def all_states(num_states: int, length: int) -> Tensor:
    """Every sequence [num_states ** length, length], last position fastest."""
    return torch.tensor(list(itertools.product(range(num_states), repeat=length)))


class AnsweringNetwork(Guided, nn.Module):
    """A network by its answers alone: what its head takes is its output already."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(num_outputs, num_outputs, bias=True, dtype=torch.float64)
        self.head.requires_grad_(False)
        self.head.weight.copy_(torch.eye(num_outputs))
        self.head.bias.zero_()

    def hidden_given(
        self,
        labels: Tensor | None,
        xt: Tensor,
        sigma: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        # An infinity times a 0 of the head would be no number.
        return self(xt, sigma, at).clamp(min=-1e300)

    def outputs(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)

    def recording(self) -> AbstractContextManager[None]:
        return nullcontext()


class ExactNetwork(AnsweringNetwork):
    """The exact score, or conditional distribution, of a toy distribution under a graph."""

    def __init__(self, model: SEDD, p0: Tensor) -> None:
        super().__init__(model.graph.num_states - model.timeless)
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.graph, self.p0 = model.graph, p0
        self.by_x0 = model.conditional
        if model.timeless:
            states = all_states(self.graph.num_states, p0.dim())
            self.table = torch.stack([self._log_conditional(state) for state in states])

    def forward(self, xt: Tensor, sigma: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        if sigma is None:
            answer = self.table[index_of(xt, self.graph.num_states)]
            return answer if at is None else answer[at]
        answer = torch.empty(*xt.shape, self.graph.num_states, dtype=torch.float64)
        for value in sigma.unique():
            p, transition = self.marginal(value), self.transition(value)
            for row in (sigma == value).nonzero().flatten():
                answer[row] = (
                    self._log_leave_one_out(xt[row], transition)
                    if self.by_x0
                    else self._log_score(xt[row], p)
                )
        return answer if at is None else answer[at]

    def transition(self, sigma: Tensor) -> Tensor:
        """p(xt | x0) at sigma, [V, V]."""
        return torch.matrix_exp(sigma.double() * rates_of(self.graph))

    def marginal(self, sigma: Tensor) -> Tensor:
        """p(x at sigma), [V] * L."""
        transition = self.transition(sigma)
        p = self.p0
        padding = self.graph.num_states - p.shape[0]
        p = nn.functional.pad(p, (0, padding) * p.dim())
        for axis in range(p.dim()):
            p = torch.tensordot(p, transition, dims=([axis], [0])).movedim(-1, axis)
        return p

    def _log_score(self, row: Tensor, p: Tensor) -> Tensor:
        here = p[tuple(row)]
        columns = []
        for position in range(len(row)):
            index = [*row.tolist()]
            index[position] = slice(None)
            columns.append((p[tuple(index)] / here).log())
        return torch.stack(columns)

    def _log_leave_one_out(self, row: Tensor, transition: Tensor) -> Tensor:
        """Log of p(x0 at a position | xt at all others) [L, V]."""
        columns = []
        for position in range(len(row)):
            p = self.p0
            for axis in reversed(range(p.dim())):
                if axis != position:
                    p = torch.tensordot(p, transition[:, row[axis]], dims=([axis], [0]))
            columns.append((p / p.sum()).log())
        return torch.stack(columns)

    def _log_conditional(self, row: Tensor) -> Tensor:
        mask_id = self.graph.num_states - 1
        known = [slice(None) if v == mask_id else slice(v, v + 1) for v in row.tolist()]
        joint = self.p0[tuple(known)]
        log_p = torch.zeros(len(row), mask_id, dtype=torch.float64)
        for position in range(len(row)):
            if row[position] == mask_id:
                others = [axis for axis in range(joint.dim()) if axis != position]
                # A sum over no axes would be one over all.
                alone = joint.sum(others) if others else joint
                log_p[position] = (alone / joint.sum()).log()
        return log_p


def exact_model(
    graph: str, parameterization: str, p0: Tensor | None = None, **changes: object
) -> tuple[SEDD, Tensor]:
    """A model whose network is exact, with its data distribution: a toy one unless given."""
    config = toy_config(graph, parameterization, **changes)
    model = SEDD(config).double().eval()
    p0 = toy_distribution(config.vocab_size, config.length) if p0 is None else p0
    model.network = ExactNetwork(model, p0)  # type: ignore[assignment]
    return model, p0


def check_law(drawn: Tensor, law: Tensor) -> None:
    """Assert that outcome indices [n] were drawn from probabilities [K]."""
    assert follows_law(drawn, law)


def follows_law(drawn: Tensor, law: Tensor) -> bool:
    """Pearson's test of outcome indices [n] against probabilities [K].

    False alarms happen at a rate of 1e-4. A law at total variation 0.05 from the given one has a
    noncentrality of at least n (2 * 0.05)^2, which must be found with a power of 0.99. Outcomes
    that are expected less than 5 times count as one, with the next likeliest where they stay rare.
    """
    expected, order = (law * len(drawn)).sort()
    counts = torch.bincount(drawn, minlength=len(law)).double()[order]
    if counts[expected == 0].sum() > 0:
        return False
    num_rare = int((expected < 5).sum())
    if 0 < expected[:num_rare].sum() < 5:
        num_rare += 1
    expected, counts = (
        torch.cat([values[:num_rare].sum()[None], values[num_rare:]])[int(num_rare == 0) :]
        for values in (expected, counts)
    )
    expected, counts = expected[expected > 0], counts[expected > 0]
    freedom = len(expected) - 1
    threshold = stats.chi2.isf(1e-4, freedom)
    power = stats.ncx2.sf(threshold, freedom, len(drawn) * (2 * 0.05) ** 2)
    assert power >= 0.99
    return bool(((counts - expected) ** 2 / expected).sum() < threshold)


def total_variation(law: Tensor, other: Tensor) -> float:
    """Half the sum of absolute differences of two laws [K]."""
    return (law - other).abs().sum().item() / 2


def index_of(tokens: Tensor, num_states: int) -> Tensor:
    """The place of each row of tokens [n, L] in `all_states`."""
    index = torch.zeros(len(tokens), dtype=torch.int64)
    for column in tokens.T:
        index = index * num_states + column
    return index
