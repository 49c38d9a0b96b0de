"""Samplers: from noise along the model's own clock in `num_steps` steps, then a draw of tokens."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.kernels.precision import widened
from pipeline.methods.draws import (
    ACTIVATIONS,
    CHUNK,
    FREE,
    OnState,
    Samples,
    Sharpening,
    asked_for,
    categorical,
    uniform,
)
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.embedding.vectors import Level, by_row, gaussian
from pipeline.methods.samplers import (
    PLAIN,
    UNCONDITIONAL,
    Conditioning,
    Stepping,
    label_misuses,
    misuses,
)

Predictor = Literal["ddpm", "ddim", "draw"]
SHOWN = 0.5
"""A position shows its likeliest token from this probability on, before it a mask."""


def resolve(
    model: EmbeddingDiffusion,
    predictor: Predictor | Literal["auto"],
    temperature: float = 1.0,
    top_p: float = 1.0,
    stepping: Stepping = PLAIN,
    conditioning: Conditioning = UNCONDITIONAL,
) -> Predictor:
    """The sampler that is used: `auto` is `ddpm`.

    Raises:
        ValueError: there is no such sampler, or a value is out of range; all that is wrong.
    """
    called = "method embedding"
    found = misuses("embedding", called, predictor, temperature, top_p, stepping)
    if found := found + label_misuses(model.labels, conditioning):
        raise ValueError("; ".join(found))
    return "ddpm" if predictor == "auto" else predictor


@torch.inference_mode()
def sample(
    model: EmbeddingDiffusion,
    num: int,
    *,
    num_steps: int,
    predictor: Predictor | Literal["auto"],
    generator: torch.Generator,
    length: int | None = None,
    fixed: Tensor | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stepping: Stepping = PLAIN,
    conditioning: Conditioning = UNCONDITIONAL,
    on_state: OnState | None = None,
) -> Samples:
    """Draw `num` sequences.

    A self-conditioned model takes at each step what it expected at the one before, at first
    nothing. Every step evaluates every row, and the draw of tokens once more.

    Args:
        model: the model, in eval mode.
        num: how many sequences.
        num_steps: steps from t = 1 to 0, the draw of tokens comes on top.
        predictor: `ddim` (arXiv 2010.02502), `ddpm`, the posterior's own draw (VDM, arXiv
            2107.00630, A.4), or `draw`, the same around a token that is drawn, not the mean.
        generator: source of randomness, on the model's device.
        length: tokens a sequence, the model's own if None.
        fixed: tokens [L] that are known, FREE (-1) where the model decides.
        temperature: the distribution of tokens is taken to the power 1 / temperature, wherever it
            is used.
        top_p: then only the likeliest tokens that together hold this share are left of it.
        stepping: times and corrections, of which there are none here.
        on_state: called with (step, t, xt [num, L]) before each step and at the end; xt are the
            likeliest tokens, `vocab_size` where none reaches SHOWN.
    Raises:
        ValueError: num_steps below 1, a length past the model's, fixed of another length, or what
            `resolve` refuses.
    """
    fixed = asked_for(model.length, num_steps, length, fixed)
    rule = resolve(model, predictor, temperature, top_p, stepping, conditioning)
    sharpening = Sharpening(model.config.vocab_size, temperature, top_p)
    device = generator.device
    known = fixed.to(device).expand(num, -1)
    z = gaussian((*known.shape, model.config.dim), generator)
    times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    levels, estimate, calls = model.clock.g(times.to(device)), None, 0
    with model.network.recording():
        for step, t in enumerate(times.tolist()):
            now, is_last = levels[step : step + 1], step == num_steps
            draws = is_last or rule == "draw"
            u = uniform(tuple(known.shape), generator) if draws else None
            found = expect(model, z, now, known, estimate, sharpening, u, on_state is not None)
            calls += found.calls
            if on_state is not None:
                on_state(step, t, found.shown)
            if not is_last:
                estimate = found.mean
                target = estimate
                if rule == "draw":
                    target = F.embedding(found.tokens, model.network.vectors())
                after = model.level(levels[step + 1 : step + 2])
                z = moved(z, target, model.level(now), after, rule, generator)
    tokens = torch.where(known == FREE, found.tokens, known)
    if on_state is not None:
        on_state(num_steps + 1, 0.0, tokens)
    nfe = torch.full((num,), num_steps + 1, device=device)
    return Samples(tokens, nfe, calls)


@dataclass(frozen=True)
class Expectation:
    """What the model expects at one step.

    Attributes:
        mean: the mean vector [B, L, d].
        tokens: ids that uniforms picked [B, L]; without uniforms of no meaning.
        shown: the likeliest ids [B, L], `vocab_size` where they are not likely; of no meaning
            where they were not asked for.
        calls: batched network calls.
    """

    mean: Tensor
    tokens: Tensor
    shown: Tensor
    calls: int


def expect(
    model: EmbeddingDiffusion,
    z: Tensor,
    g: Tensor,
    known: Tensor,
    estimate: Tensor | None,
    sharpening: Sharpening,
    u: Tensor | None,
    shows: bool,
) -> Expectation:
    """What the model expects of z [B, L, d] at the level g [1], a part at a time.

    The network takes as many rows at a time as ACTIVATIONS has room for, and the head as many
    positions as CHUNK has; u is drawn before, so that neither changes what is drawn.

    Args:
        known: token ids [B, L], FREE where the model decides.
        estimate: what the step before expected [B, L, d].
        sharpening: of the distribution of tokens.
        u: a uniform for each position [B, L], where tokens are to be drawn.
        shows: whether likely tokens are asked for.
    """
    network, kind = model.network, z.device.type
    vectors = network.vectors()
    evidence = (by_row(model.level(g).evidence, z) * z).flatten(0, 1)
    mean = torch.empty_like(evidence)
    tokens, shown = (known.flatten().clone() for _ in range(2))
    num_rows = max(1, ACTIVATIONS[kind] // (4 * model.config.width * z.shape[1]))
    num_positions = max(1, CHUNK[kind] // model.config.vocab_size)
    tops = range(0, len(z), num_rows)
    # Then no probability needs to be whole. Whether somebody looks on changes no mean.
    mean_alone = u is None and not sharpening.changes
    for top in tops:
        part = slice(top, top + num_rows)
        before = None if estimate is None else estimate[part]
        hidden = network.hidden(z[part], g, known[part], before).flatten(0, 1)
        first = top * z.shape[1]
        if mean_alone:
            ids, here = known[part].clamp(min=0), slice(first, first + len(hidden))
            with torch.autocast(kind, enabled=False):
                found = network.expect(widened(hidden), z[part], g, ids)
            mean[here] = found.mean.flatten(0, 1)
            if not shows:
                continue
        for piece in torch.split(hidden, num_positions):
            here = slice(first, first + len(piece))
            p = sharpening(network.logits(piece, evidence[here]).softmax(-1))
            if not mean_alone:
                mean[here] = p.to(vectors) @ vectors
            if u is not None:
                tokens[here] = categorical(p, u.flatten()[here])
            if shows:
                likeliest = p.max(-1)
                unsure = likeliest.values < SHOWN
                shown[here] = likeliest.indices.masked_fill(unsure, model.config.vocab_size)
            first += len(piece)
    shown = torch.where(known == FREE, shown.view(known.shape), known)
    return Expectation(mean.view(z.shape), tokens.view(known.shape), shown, len(tops))


def moved(
    z: Tensor,
    mean: Tensor,
    now: Level,
    after: Level,
    rule: Predictor,
    generator: torch.Generator,
) -> Tensor:
    """z [B, L, d] a step later, given what is expected [B, L, d], from one level to a lower one."""
    alpha, sigma, next_alpha, next_sigma = (
        by_row(x, z) for x in (now.alpha, now.sigma, after.alpha, after.sigma)
    )
    if rule == "ddim":
        return next_alpha * mean + next_sigma / sigma * (z - alpha * mean)
    # The share of what is known by then that comes from this step, as small as steps are.
    c = by_row(-torch.expm1(after.gamma - now.gamma), z)
    noise = gaussian(z.shape, generator).to(z)
    kept = (1 - c) * (next_alpha / alpha) * z + c * next_alpha * mean
    return kept + c.sqrt() * next_sigma * noise
