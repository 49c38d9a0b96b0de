"""The uniform graph by x0: the network says which token a position stands for, given the others.

Of its outputs pi = softmax(outputs) is the distribution of x0 before the position's own noised
token is counted: p(x0 | xt) is pi(x0) p(xt | x0), normalised (the leave-one-out form, arXiv
2605.22765). The score that p(x0 | xt) implies,

    s(y) = sum over x0 of p(x0 | xt) p(y | x0) / p(xt | x0),

is then the ratio of two noised pi, (1 + a pi(y)) / (1 + a pi(xt)) with the odds of signal to noise
a = V / (e^sigma - 1), since p(y | x0) is (1 - e^-sigma) / V times 1 + a where y = x0, times 1
elsewhere. No sum of it cancels (closed forms of the loss: arXiv 2412.10193, 2506.10892).
"""

import torch
from torch import Tensor

from pipeline.kernels.criterion import put_at, put_at_, value_at


def signal(sigma: Tensor, num_states: int) -> Tensor:
    """a = V / (e^sigma - 1), shape of sigma: how much likelier noise leaves a token than makes it.

    The chance that xt is x0 is 1 + a times the chance that it is one given other token.
    """
    return num_states / torch.expm1(sigma)


def log_score(outputs: Tensor, xt: Tensor, sigma: Tensor) -> Tensor:
    """Log score [..., V] of outputs [..., V] at xt [...] and sigma [...]."""
    a = signal(sigma, outputs.shape[-1])[..., None].to(outputs.dtype)
    noised = torch.log1p(a * outputs.softmax(-1))
    return noised - noised.gather(-1, xt[..., None])


def log_p(outputs: Tensor, xt: Tensor, sigma: Tensor) -> Tensor:
    """Log of p(x0 | xt) [..., V] of outputs [..., V] at xt [...] and sigma [...]."""
    evidence = torch.log1p(signal(sigma, outputs.shape[-1])).to(outputs.dtype)
    return outputs.scatter_add(-1, xt[..., None], evidence[..., None]).log_softmax(-1)


def without_evidence(p: Tensor, xt: Tensor, sigma: Tensor) -> Tensor:
    """pi [..., V] of p(x0 | xt) [..., V], which `log_p` gave or which was sharpened since."""
    evidence = 1 + signal(sigma, p.shape[-1])[..., None]
    pi = p.scatter(-1, xt[..., None], p.gather(-1, xt[..., None]) / evidence)
    return pi / pi.sum(-1, keepdim=True)


def score(p: Tensor, xt: Tensor, sigma: Tensor) -> Tensor:
    """The score [..., V], 1 at xt, that p(x0 | xt) [..., V] implies."""
    noised = 1 + signal(sigma, p.shape[-1]) * without_evidence(p, xt, sigma)
    return noised / noised.gather(-1, xt[..., None])


def corrected(
    p: Tensor, xt: Tensor, sigma: Tensor, next_sigma: Tensor, kappa: Tensor | float = 1.0
) -> Tensor:
    """Weights [..., V] of the states xs of a step from sigma to next_sigma, at most sigma.

    kappa q(xs | xt, x0) + (1 - kappa) q(xs | x0) in the mean over p(x0 | xt) [..., V]. With kappa
    1 it is the posterior's own draw; 0 forgets xt. q(xs | xt, x0) is p(xt | xs) q(xs | x0), over
    p(xt | x0): its mean is p(xt | xs) times pi noised to next_sigma, normalised.
    """
    kept, noise = _kept(next_sigma, p)
    ancestral = kept * without_evidence(p, xt, sigma) + noise
    kept_on, noise_on = _kept(sigma - next_sigma, p)
    at_xt = ancestral.gather(-1, xt[..., None]) * (kept_on + noise_on)
    ancestral = (ancestral * noise_on).scatter(-1, xt[..., None], at_xt)
    ancestral = ancestral / ancestral.sum(-1, keepdim=True)
    return kappa * ancestral + (1 - kappa) * (kept * p + noise)


def _kept(sigma: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Chance that a token stays for sure, and that it then becomes one given token."""
    return (-sigma).exp(), -torch.expm1(-sigma) / p.shape[-1]


def score_entropy_(
    outputs: Tensor,
    states: slice,
    x0: Tensor,
    xt: Tensor,
    sigma: Tensor,
    weight: Tensor,
    _shift: Tensor,
) -> Tensor:
    """weight * score entropy of the implied score [N] at N positions, from all outputs [N, V].

    Outputs become its gradient. With the ratio r(y) = p(y | x0) / p(xt | x0) a state costs
    r (s / r - 1 - log(s / r)), which is never negative; e^d - 1 - d of d = log(s / r) keeps small
    ones.
    """
    num_states = outputs.shape[-1]
    outputs -= outputs.amax(-1, keepdim=True)
    pi = outputs.exp_()
    pi /= pi.sum(-1, keepdim=True)
    a = signal(sigma, num_states)
    log_ratio = _log_ratio(pi, x0, xt, a, states)
    signals = a[:, None] * pi
    noised = signals.log1p()
    excess = noised - value_at(noised, xt, states)[:, None] - log_ratio
    ratio = log_ratio.exp_()
    grown = excess.expm1()
    entropy = put_at(ratio * (grown - excess), xt, states, 0.0).sum(-1)
    weight = weight / num_states
    by_log_score = put_at(ratio * grown * weight[:, None], xt, states, 0.0)
    # d log(1 + a pi) / d log pi, and xt's own is taken off every log score.
    share = signals / (1 + signals)
    by_xt = -by_log_score.sum(-1) * value_at(share, xt, states)
    by_log_pi = put_at_(by_log_score * share, xt, states, by_xt)
    outputs.mul_(-by_log_pi.sum(-1, keepdim=True)).add_(by_log_pi)
    return weight * entropy


def _log_ratio(like: Tensor, x0: Tensor, xt: Tensor, a: Tensor, states: slice) -> Tensor:
    """Log of p(y | x0) / p(xt | x0) [N, V] at every y but xt, of which x0 stands out."""
    kept = a.log1p()
    others = torch.where(xt == x0, -kept, 0.0)
    log_ratio = torch.empty_like(like, requires_grad=False)
    log_ratio.copy_(others[:, None])
    return put_at_(log_ratio, x0, states, kept)
