"""The forward process on one token: a continuous-time Markov chain over V states, SEDD section 3.

Rates are written with sigma as the clock, so that a schedule only rescales time. `score` is the
ratio p(y) / p(xt) for every state y, and 1 at y = xt (SEDD eq. 5). Q [V, V] is the generator:
Q[x, y] is the rate from x to y, and rows sum to 0.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.kernels.criterion import add_at_, is_in, put_at, put_at_, value_at


def log_expm1(sigma: Tensor) -> Tensor:
    """log(e^sigma - 1), finite for every positive sigma."""
    return sigma + (-torch.expm1(-sigma)).log()


def _per_row(values: Tensor, dims: int) -> Tensor:
    return values.reshape(-1, *[1] * (dims - 1))


@dataclass(frozen=True)
class Absorb:
    """Every token falls to the mask, the last state, at rate 1.

    Attributes:
        num_states: V, the mask included.
    """

    num_states: int

    @property
    def mask_id(self) -> int:
        """The absorbing state; another graph has None."""
        return self.num_states - 1

    def sample_limit(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw what samplers start from."""
        return torch.full(shape, self.mask_id, device=generator.device)

    def reverse_rate(self, xt: Tensor, score: Tensor) -> Tensor:
        """Rates [B, L, V] out of xt [B, L] in the reversed process, SEDD eq. 4; they sum to 0."""
        rate = torch.where((xt == self.mask_id)[..., None], score, 0.0)
        rate[..., self.mask_id] = -rate[..., : self.mask_id].sum(-1)
        return rate

    def staggered_score(self, score: Tensor, delta_sigma: Tensor) -> Tensor:
        """exp(-delta_sigma Q) applied to score [B, L, V], SEDD eq. 19; delta_sigma [B]."""
        delta_sigma = _per_row(delta_sigma, score.dim())
        staggered = score * delta_sigma.exp()
        staggered[..., self.mask_id] -= (torch.expm1(delta_sigma) * score).sum(-1)
        return staggered

    def transposed_transition(self, xt: Tensor, sigma: Tensor) -> Tensor:
        """p(xt | y) [B, L, V] for every earlier state y, after noise sigma [B]."""
        sigma = _per_row(sigma, xt.dim() + 1)
        stayed = F.one_hot(xt, self.num_states) * (-sigma).exp()
        return stayed + torch.where((xt == self.mask_id)[..., None], -torch.expm1(-sigma), 0.0)

    def score_entropy_(
        self,
        outputs: Tensor,
        states: slice,
        x0: Tensor,
        xt: Tensor,
        sigma: Tensor,
        weight: Tensor,
        shift: Tensor,
    ) -> Tensor:
        """weight * what some states add to the score entropy [N] at N positions, in nats.

        It is SEDD eq. 8 with its constant: never below 0, over all states. Outputs [N, K] of these
        states become its gradient. The log score is outputs - shift [N], and what it is at y = xt
        does not matter. With absorb, every xt must be the mask.
        """
        log_ratio = -log_expm1(sigma)
        at_x0 = value_at(outputs, x0, states) - shift
        weighted_ratio = torch.where(is_in(x0, states), weight * log_ratio.exp(), 0.0)
        gradient = outputs.add_((weight.log() - shift)[:, None]).exp_()
        gradient[:, self.mask_id - states.start :] = 0
        total = gradient.sum(-1)
        add_at_(gradient, x0, states, -weighted_ratio)
        return total + weighted_ratio * (log_ratio - 1 - at_x0)

    def least_kappa(self, alpha: Tensor, next_alpha: Tensor) -> Tensor:
        """The least kappa of a step, see `schedule`, at which no state has a chance below 0.

        Alpha is e^-sigma before the step, next_alpha after it, of the same shape. It is 0 or less:
        1 - kappa may reach 1 + 1 / (R - 1), R the largest q(xs | xt, x0) / q(xs | x0).
        """
        # R is 1 / (1 - alpha) at a mask that stays one, 1 / next_alpha at a token that stays.
        return 1 - torch.minimum(1 / (1 - next_alpha), 1 / alpha)

    def prior_nats(self, sigma: Tensor) -> Tensor:
        """KL from p(x at sigma | x0) to the prior, in nats a position, shape of sigma."""
        # A token that survives to the end would cost infinitely much against an all-mask prior, so
        # the prior gives the survivors' mass exp(-sigma) to the tokens, evenly.
        return (-sigma).exp() * math.log(self.num_states - 1)


@dataclass(frozen=True)
class Uniform:
    """Every token jumps to a uniformly drawn state at rate 1, itself included; see Absorb."""

    num_states: int

    @property
    def mask_id(self) -> None:
        return None

    def sample_limit(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(self.num_states, shape, generator=generator, device=generator.device)

    def reverse_rate(self, xt: Tensor, score: Tensor) -> Tensor:
        rate = score / self.num_states
        rate = rate.scatter(-1, xt[..., None], 0.0)
        return rate.scatter(-1, xt[..., None], -rate.sum(-1, keepdim=True))

    def staggered_score(self, score: Tensor, delta_sigma: Tensor) -> Tensor:
        delta_sigma = _per_row(delta_sigma, score.dim())
        mean = score.mean(-1, keepdim=True)
        return score * delta_sigma.exp() - torch.expm1(delta_sigma) * mean

    def transposed_transition(self, xt: Tensor, sigma: Tensor) -> Tensor:
        sigma = _per_row(sigma, xt.dim() + 1)
        stayed = F.one_hot(xt, self.num_states) * (-sigma).exp()
        return stayed - torch.expm1(-sigma) / self.num_states

    def score_entropy_(
        self,
        outputs: Tensor,
        states: slice,
        x0: Tensor,
        xt: Tensor,
        sigma: Tensor,
        weight: Tensor,
        shift: Tensor,
    ) -> Tensor:
        log_score = outputs.sub_(shift[:, None])
        log_ratio = self._log_ratio(log_score, x0, xt, sigma, states)
        entropy = log_score.exp() + log_ratio.exp() * (log_ratio - 1 - log_score)
        entropy = put_at(entropy, xt, states, 0.0).sum(-1) / self.num_states
        gradient = log_score.exp_().sub_(log_ratio.exp_())
        gradient *= (weight / self.num_states)[:, None]
        put_at_(gradient, xt, states, 0.0)
        return weight * entropy

    def least_kappa(self, alpha: Tensor, next_alpha: Tensor) -> Tensor:
        # R is p(xt | xs) / p(xt | x0) where xs is xt and x0 is not.
        kept = alpha / next_alpha
        return -(1 - alpha) / (alpha + (self.num_states - 1) * kept)

    def prior_nats(self, sigma: Tensor) -> Tensor:
        log_same, log_other = self._log_transition(sigma)
        log_v = math.log(self.num_states)
        others = (self.num_states - 1) * log_other.exp() * (log_other + log_v)
        return log_same.exp() * (log_same + log_v) + others

    def _log_ratio(
        self, like: Tensor, x0: Tensor, xt: Tensor, sigma: Tensor, states: slice
    ) -> Tensor:
        """Log of p(y | x0) / p(xt | x0) [..., K] for some states y, laid out in memory as `like`.

        Only x0 and xt stand out.
        """
        log_same, log_other = self._log_transition(sigma)
        log_gap = log_same - log_other
        others = torch.where(xt == x0, -log_gap, 0.0)
        log_ratio = torch.empty_like(like, dtype=others.dtype, requires_grad=False)
        log_ratio.copy_(others[..., None])
        return put_at_(log_ratio, x0, states, torch.where(xt == x0, 0.0, log_gap))

    def _log_transition(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log probability of ending where one began, and of ending at one given other state."""
        log_other = (-torch.expm1(-sigma)).log() - math.log(self.num_states)
        return torch.logaddexp(-sigma, log_other), log_other


Graph = Absorb | Uniform


def moved_by_chance(
    graph: Graph, x0: Tensor, move_chance: Tensor, generator: torch.Generator
) -> Tensor:
    """Noised tokens [B, L]: each position of x0 [B, L] moves with its row's move chance [B]."""
    u = torch.rand(x0.shape, dtype=torch.float64, device=x0.device, generator=generator)
    limit = graph.sample_limit(tuple(x0.shape), generator)
    return torch.where(u < _per_row(move_chance, x0.dim()), limit, x0)


def sample_transition(
    graph: Graph, x0: Tensor, sigma: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw xt [B, L] from x0 [B, L] after noise sigma [B]."""
    return moved_by_chance(graph, x0, -torch.expm1(-sigma.double()), generator)
