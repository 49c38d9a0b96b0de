"""SEDD: a network with the graph and the noise that give its output a meaning."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pipeline.kernels.precision import widened
from pipeline.methods.protocol import WITH_LABELS, Model, wrong_sizes
from pipeline.methods.sedd import uniform_x0
from pipeline.methods.sedd.graph import Absorb, Graph, Uniform, log_expm1
from pipeline.methods.sedd.network import Transformer
from pipeline.methods.sedd.noise import Geometric, Loglinear, Noise


@dataclass(frozen=True)
class SEDDConfig:
    """Everything that defines a model but its weights."""

    method: ClassVar[str] = "sedd"

    graph: Literal["absorb", "uniform"]
    noise: Literal["loglinear", "geometric"]
    parameterization: Literal["conditional", "raw"]
    vocab_size: int
    length: int
    width: int
    num_blocks: int
    num_heads: int
    cond_dim: int
    dropout: float
    eps: float | None
    sigma_min: float | None
    sigma_max: float | None
    t_min: float
    scale_by_sigma: bool = True
    labels: dict[str, list[str]] = field(default_factory=dict, metadata=WITH_LABELS)
    label_dropout: float = field(default=0.0, metadata=WITH_LABELS)
    # As the time-free networks of others have it, which have no positions but rotary ones.
    norm_bias: bool = field(default=False, metadata={"only_with": "norm_bias"})

    def __post_init__(self) -> None:
        """Refuse values that are out of range, all of them at once, with ValueError."""
        sizes = ("vocab_size", "length", "width", "num_blocks", "num_heads", "cond_dim")
        mistakes = wrong_sizes(self, sizes)
        for name in "eps", "t_min":
            if (value := getattr(self, name)) is not None and not 0 < value < 1:
                mistakes.append(f"{name} must lie between 0 and 1 (got {value})")
        for name in "sigma_min", "sigma_max":
            if (value := getattr(self, name)) is not None and not 0 < value <= 80:
                mistakes.append(f"{name} must be above 0 and at most 80 (got {value})")
        if not 0 <= self.dropout < 1:
            mistakes.append(f"dropout must be at least 0 and less than 1 (got {self.dropout})")
        if self.sigma_min is not None and not self.sigma_min < (self.sigma_max or 0):
            mistakes.append(f"sigma_min must be less than sigma_max (got {self.sigma_min})")
        if not 0 <= self.label_dropout < 1:
            mistakes.append(f"label_dropout must be at least 0, below 1 (got {self.label_dropout})")
        if self.labels and self.parameterization != "conditional":
            mistakes.append("labels are of the conditional parameterization")
        if self.norm_bias and (self.graph, self.parameterization) != ("absorb", "conditional"):
            mistakes.append("norm_bias is of the conditional parameterization on graph absorb")
        if mistakes:
            raise ValueError("; ".join(mistakes))

    def asdict(self) -> dict[str, Any]:
        """The fields as plain values, without those of labels, or norm_bias, if there are none."""
        plain = asdict(self)
        if not self.labels:
            del plain["labels"], plain["label_dropout"]
        if not self.norm_bias:
            del plain["norm_bias"]
        return plain


def _noise(config: SEDDConfig) -> Noise:
    if config.noise == "loglinear" and config.eps is not None:
        return Loglinear(config.eps)
    if config.noise == "geometric" and config.sigma_min and config.sigma_max:
        return Geometric(config.sigma_min, config.sigma_max)
    raise ValueError(
        f"noise {config.noise} is unknown, or lacks its eps, or sigma_min and sigma_max"
    )


class SEDD(Model):
    """A score model over sequences of up to `length` tokens.

    With the raw parameterisation the network's output is the log score, shifted by
    log(e^sigma - 1) + log(V - 1) for absorb (SEDD appendix C.2). With the conditional one it is
    the distribution of the clean token given the others: with absorb given the unmasked ones,
    whatever the time (arXiv 2406.03736, theorem 1), with uniform as `uniform_x0` says.

    Attributes:
        conditional: whether the parameterisation is the conditional one, by x0.
        timeless: whether the network needs no sigma: a conditional one on masks.
    """

    config: SEDDConfig
    network: Transformer

    def __init__(self, config: SEDDConfig) -> None:
        super().__init__()
        self.config = config
        self.length = config.length
        self.conditional = config.parameterization == "conditional"
        size = config.vocab_size
        self.graph: Graph = Absorb(size + 1) if config.graph == "absorb" else Uniform(size)
        self.labels = config.labels
        self.timeless = self.conditional and self.graph.mask_id is not None
        self.noise = _noise(config)
        self.network = Transformer(
            num_states=self.graph.num_states,
            num_outputs=config.vocab_size if self.conditional else self.graph.num_states,
            width=config.width,
            num_blocks=config.num_blocks,
            num_heads=config.num_heads,
            cond_dim=None if self.timeless else config.cond_dim,
            dropout=config.dropout,
            num_positions=config.length if self.conditional and not config.norm_bias else None,
            norm_bias=config.norm_bias,
            label_sizes=[len(values) for values in config.labels.values()],
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of sigma and of the log score: that of the weights, but never narrower than float32."""
        return torch.promote_types(next(self.network.parameters()).dtype, torch.float32)

    @property
    def t_min(self) -> float:
        """The smallest time that the score is used at; below it stands the final denoise."""
        return 0.0 if self.timeless else self.config.t_min

    def log_shift(self, sigma: Tensor) -> Tensor:
        """What is taken off the raw network's output, "scale by sigma", shape of sigma."""
        if self.graph.mask_id is None or not self.config.scale_by_sigma:
            return torch.zeros_like(sigma)
        return log_expm1(sigma) + math.log(self.graph.num_states - 1)

    def log_score(self, xt: Tensor, sigma: Tensor, at: Tensor | None = None) -> Tensor:
        """Log of p(y) / p(xt) for every state y, SEDD eq. 12.

        Args:
            xt: noised tokens [B, L], int64.
            sigma: total noise [B], of `dtype` or wider.
            at: positions [B, L] that alone are asked for.
        Returns:
            log score [B, L, V], 0 at y = xt; of the N positions `at` [N, V]. A timeless network
            says nothing of positions that hold a token, which absorb never changes: -inf there.
        """
        by_position = sigma[:, None].expand_as(xt)
        if at is not None:
            by_position = by_position[at]
        here = xt if at is None else xt[at]
        if self.timeless:
            return self._implied_log_score(self.log_p(xt, at), here, by_position)
        return self.log_score_of(widened(self.network(xt, sigma, at)), here, by_position)

    def log_score_of(self, outputs: Tensor, xt: Tensor, sigma: Tensor) -> Tensor:
        """What outputs [..., V] of a network that takes sigma mean at xt [...] and sigma [...]."""
        if self.conditional:
            log_score = uniform_x0.log_score(outputs, xt, sigma)
        else:
            log_score = outputs - self.log_shift(sigma)[..., None].to(outputs.dtype)
        return log_score.scatter(-1, xt[..., None], 0.0)

    def log_p(self, xt: Tensor, at: Tensor | None = None, sigma: Tensor | None = None) -> Tensor:
        """Log probability [B, L, vocab_size] of each clean token given xt [B, L] at sigma [B].

        With `at` [B, L] only of the N positions that it marks: [N, vocab_size]. Of masks alone,
        if the network is timeless, which needs no sigma.

        Raises:
            ValueError: the parameterisation is raw, or there is no sigma where it is needed.
        """
        if not self.conditional:
            raise ValueError("only the conditional parameterisation has a distribution of x0")
        outputs = widened(self.network(xt, None if self.timeless else sigma, at))
        if self.timeless or sigma is None:
            return outputs.log_softmax(-1)
        by_position = sigma[:, None].expand_as(xt)
        if at is not None:
            xt, by_position = xt[at], by_position[at]
        return uniform_x0.log_p(outputs, xt, by_position)

    def _implied_log_score(self, log_p: Tensor, xt: Tensor, sigma: Tensor) -> Tensor:
        mask_id = self.graph.num_states - 1
        log_score = log_p - log_expm1(sigma)[..., None]
        log_score = log_score.masked_fill((xt != mask_id)[..., None], -math.inf)
        log_score = torch.cat([log_score, torch.full_like(log_score[..., :1], -math.inf)], -1)
        return log_score.scatter(-1, xt[..., None], 0.0)
