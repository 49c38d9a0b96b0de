"""SEDD, score entropy discrete diffusion (arXiv 2310.16834), for transformers, in plain PyTorch.

This one file is the model: the network, the noise, the score, and a sampler that also infills.
V are the states of a position: the tokens and, with graph `absorb`, the mask as the last one.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import ModelOutput

FREE = -1
FREQUENCY_DIM = 256


class SEDDConfig(PretrainedConfig):
    """Sizes of the network, graph, noise, and what the network's output means."""

    model_type = "sedd"
    attribute_map = {  # noqa: RUF012
        "hidden_size": "width",
        "num_hidden_layers": "num_blocks",
        "num_attention_heads": "num_heads",
        "max_position_embeddings": "length",
    }

    def __init__(
        self,
        graph: str = "absorb",
        noise: str = "loglinear",
        parameterization: str = "conditional",
        num_tokens: int = 1,
        length: int = 1,
        width: int = 2,
        num_blocks: int = 1,
        num_heads: int = 1,
        cond_dim: int = 1,
        dropout: float = 0.0,
        eps: float | None = 1e-3,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        t_min: float = 1e-3,
        scale_by_sigma: bool = True,
        norm_bias: bool = False,
        **others: object,
    ) -> None:
        self.graph, self.noise, self.parameterization = graph, noise, parameterization
        self.num_tokens, self.length = num_tokens, length
        # As everywhere in transformers, rows of the embedding: V, the mask included.
        self.vocab_size = num_tokens + (graph == "absorb")
        self.width, self.num_blocks, self.num_heads = width, num_blocks, num_heads
        self.cond_dim, self.dropout = cond_dim, dropout
        self.eps, self.sigma_min, self.sigma_max = eps, sigma_min, sigma_max
        self.t_min, self.scale_by_sigma, self.norm_bias = t_min, scale_by_sigma, norm_bias
        # It follows from the two above.
        others.pop("vocab_size", None)
        super().__init__(**others)


@dataclass
class SEDDOutput(ModelOutput):
    """What the model says.

    Attributes:
        log_score: log of p(y) / p(input) for each state y at each position [B, L, V].
    """

    log_score: Tensor | None = None


def wide(x: Tensor) -> Tensor:
    """x in float32 where it is narrower."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def log_expm1(sigma: Tensor) -> Tensor:
    """log(e^sigma - 1), finite for every positive sigma."""
    return sigma + (-torch.expm1(-sigma)).log()


def categorical(weights: Tensor, u: Tensor) -> Tensor:
    """The index [n] that uniforms u [n] pick from weights [n, K]; negative ones count as 0."""
    cumulative = weights.clamp(min=0).cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    below_total = torch.minimum(u[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, below_total, right=True).squeeze(-1)


class Norm(nn.Module):
    """Layer norm with a weight and perhaps a bias, in float32 or wider; then scaled and shifted."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(
        self, x: Tensor, shift: Tensor | float = 0.0, scale: Tensor | float = 0.0
    ) -> Tensor:
        dtype = wide(x).dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        normed = F.layer_norm(wide(x), self.weight.shape, self.weight.to(dtype), bias)
        return normed.to(self.weight.dtype) * (1 + scale) + shift


class Embedding(nn.Module):
    """Rows [N, D] looked up by id."""

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(num_rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        return wide(F.embedding(ids, self.embedding))


class SigmaEmbedding(nn.Module):
    """Sinusoidal features of sigma [B] through two linear maps, to [B, C]."""

    def __init__(self, cond_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCY_DIM, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim)
        )

    def forward(self, sigma: Tensor) -> Tensor:
        half = FREQUENCY_DIM // 2
        exponents = torch.arange(half, device=sigma.device, dtype=torch.float32) / half
        angles = sigma[:, None] * torch.exp(-math.log(10_000) * exponents)
        features = torch.cat([angles.cos(), angles.sin()], -1)
        return self.mlp(features.to(self.mlp[0].weight.dtype))


class Rotary(nn.Module):
    """Rotary positions: the first half of each head turns against the second."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self.register_buffer("inv_freq", 1 / 10_000**exponents)

    def forward(self, x: Tensor) -> Tensor:
        """Queries or keys [B, H, L, head_dim], turned."""
        # In the network's precision where that is wider: the frequencies may stay in float32.
        angles = torch.outer(
            torch.arange(x.shape[-2], device=x.device),
            self.inv_freq.to(torch.promote_types(x.dtype, torch.float32)),
        )
        first, second = wide(x).chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(x.dtype)


class Block(nn.Module):
    """Attention and a perceptron, each after a norm; with cond_dim shifted, scaled and gated."""

    def __init__(self, config: SEDDConfig, cond_dim: int | None) -> None:
        super().__init__()
        width = config.width
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.norm1, self.norm2 = Norm(width, config.norm_bias), Norm(width, config.norm_bias)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.adaLN_modulation = None if cond_dim is None else nn.Linear(cond_dim, 6 * width)

    def forward(self, x: Tensor, rotary: Rotary, cond: Tensor | None) -> Tensor:
        """x [B, L, D] to the same; cond [B, C], or [1, C] of all rows."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)
            if self.adaLN_modulation is None
            else self.adaLN_modulation(cond)[:, None].chunk(6, -1)
        )
        projected = self.attn_qkv(self.norm1(x, shift1, scale1))
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in projected.chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(rotary(query), rotary(key), value)
        x = x + gate1 * self.dropped(self.attn_out(attended.transpose(1, 2).flatten(2)))
        return x + gate2 * self.dropped(self.mlp(self.norm2(x, shift2, scale2)))

    def dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Head(nn.Module):
    """The last norm, and the linear map to outputs."""

    def __init__(self, config: SEDDConfig, num_outputs: int, cond_dim: int | None) -> None:
        super().__init__()
        width = config.width
        self.norm_final = Norm(width, config.norm_bias)
        self.linear = nn.Linear(width, num_outputs)
        self.adaLN_modulation = None if cond_dim is None else nn.Linear(cond_dim, 2 * width)

    def hidden(self, x: Tensor, cond: Tensor | None) -> Tensor:
        """What the linear map takes [B, L, D]."""
        if self.adaLN_modulation is None:
            return self.norm_final(x)
        return self.norm_final(x, *self.adaLN_modulation(cond)[:, None].chunk(2, -1))


class SEDDModel(PreTrainedModel):
    """The score model: `forward` gives log scores, `sample` draws and infills.

    With parameterization `raw` the network's output is the log score, less log(e^sigma - 1) +
    log(V - 1) where `scale_by_sigma` says so. With `conditional` it is the distribution of the
    clean token: on masks given the others, whatever sigma is (arXiv 2406.03736); on graph `uniform`
    before a position's own noised token is counted (arXiv 2605.22765).
    """

    config_class = SEDDConfig
    base_model_prefix = "sedd"
    main_input_name = "input_ids"
    _no_split_modules = ("Block",)
    # Rounded frequencies would turn far positions to other angles.
    _keep_in_fp32_modules_strict = ("rotary_emb",)

    def __init__(self, config: SEDDConfig) -> None:
        super().__init__(config)
        has_mask, conditional = config.graph == "absorb", config.parameterization == "conditional"
        self.mask_id = config.num_tokens if has_mask else None
        self.num_states = config.vocab_size
        self.conditional, self.timeless = conditional, conditional and has_mask
        cond_dim = None if self.timeless else config.cond_dim
        width = config.width
        self.vocab_embed = Embedding(self.num_states, width)
        has_positions = conditional and not config.norm_bias
        self.position_embed = Embedding(config.length, width) if has_positions else None
        self.sigma_map = None if cond_dim is None else SigmaEmbedding(cond_dim)
        self.rotary_emb = Rotary(width // config.num_heads)
        self.blocks = nn.ModuleList(Block(config, cond_dim) for _ in range(config.num_blocks))
        num_outputs = config.num_tokens if conditional else self.num_states
        self.output_layer = Head(config, num_outputs, cond_dim)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Weights are loaded, never drawn: there is nothing to do."""

    def sigma(self, t: Tensor) -> Tensor:
        """Total noise at times t in [0, 1]."""
        config = self.config
        if config.noise == "loglinear":
            return -torch.log1p(-(1 - config.eps) * t)
        return config.sigma_min ** (1 - t) * config.sigma_max**t

    def hidden(self, xt: Tensor, sigma: Tensor | None) -> Tensor:
        """What the head takes of xt [B, L] at sigma [B], or [1] of all rows: [B, L, D]."""
        cond = None
        if self.sigma_map is not None:
            if sigma is None:
                raise ValueError("this network takes sigma")
            cond = F.silu(self.sigma_map(sigma))
        x = self.vocab_embed(xt)
        if self.position_embed is not None:
            x = x + wide(self.position_embed.embedding)[: xt.shape[1]]
        for block in self.blocks:
            x = block(x, self.rotary_emb, cond)
        return self.output_layer.hidden(x, cond)

    def outputs(self, hidden: Tensor) -> Tensor:
        """What the network says [..., K], never rounded by autocast: it is what is drawn from."""
        linear = self.output_layer.linear
        with torch.autocast(hidden.device.type, enabled=False):
            return wide(linear(hidden.to(linear.weight.dtype)))

    def forward(
        self,
        input_ids: Tensor,
        sigma: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> SEDDOutput:
        """Log scores [B, L, V] of tokens [B, L] at noise sigma [B], 0 where y is the input.

        A conditional score on masks says nothing of positions that hold a token: -inf there.

        Raises:
            ValueError: sigma is missing, or attention_mask leaves a position out.
        """
        refuse_left_out(attention_mask)
        if sigma is None:
            raise ValueError("the score is one at a noise: give sigma [B]")
        outputs = self.outputs(self.hidden(input_ids, sigma))
        by_position = sigma[:, None].expand_as(input_ids).to(outputs.dtype)
        return SEDDOutput(log_score=self.log_score(outputs, input_ids, by_position))

    def log_score(self, outputs: Tensor, xt: Tensor, sigma: Tensor) -> Tensor:
        """Log scores [..., V] that outputs mean at xt [...] and sigma [...]."""
        sigma = sigma[..., None]
        if self.timeless:
            scores = outputs.log_softmax(-1) - log_expm1(sigma)
            scores = scores.masked_fill((xt != self.mask_id)[..., None], -math.inf)
            scores = torch.cat([scores, torch.full_like(scores[..., :1], -math.inf)], -1)
        elif self.conditional:
            odds = self.num_states / torch.expm1(sigma)
            noised = torch.log1p(odds * outputs.softmax(-1))
            scores = noised - noised.gather(-1, xt[..., None])
        elif self.mask_id is not None and self.config.scale_by_sigma:
            scores = outputs - (log_expm1(sigma) + math.log(self.num_states - 1))
        else:
            scores = outputs
        return scores.scatter(-1, xt[..., None], 0.0)

    @torch.no_grad()
    def sample(
        self,
        num: int = 1,
        num_steps: int = 128,
        fixed: Tensor | None = None,
        length: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw `num` sequences of tokens [num, L].

        Args:
            num: how many.
            num_steps: steps of the reversed process; the final denoise comes on top.
            fixed: tokens [L] that are imposed, -1 or the mask where the model decides. On graph
                `uniform` the score takes them for noised tokens: that is no conditioning.
            length: L where nothing is fixed; the model's own by default.
            generator: source of randomness, on the model's device.
        Raises:
            ValueError: num_steps below 1, or a length that the model was not made for.
        """
        if fixed is None:
            length = self.config.length if length is None else length
            fixed = torch.full((length,), FREE)
        if num_steps < 1 or fixed.dim() != 1 or not 1 <= len(fixed) <= self.config.length:
            raise ValueError(
                f"num_steps must be at least 1 (got {num_steps}), and fixed of 1 to "
                f"{self.config.length} tokens (got shape {tuple(fixed.shape)})"
            )
        fixed = fixed.to(self.device)
        if self.mask_id is not None:
            fixed = fixed.masked_fill(fixed == self.mask_id, FREE)
        draw = self._sample_reveals if self.timeless else self._sample_steps
        return draw(num, num_steps, fixed, generator)

    def _uniform(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, device=self.device, generator=generator)

    def _sample_reveals(
        self, num: int, num_steps: int, fixed: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Of a timeless network: when a mask is revealed depends on time alone, so that is first.

        The k-th step that reveals anything in a row is evaluated with every other row's k-th.
        """
        free = fixed == FREE
        xt = torch.where(free, self.mask_id, fixed).repeat(num, 1)
        times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64, device=self.device)
        move_chance = -torch.expm1(-self.sigma(times))
        stay = (move_chance[1:] / move_chance[:-1]).cumprod(0)
        masked = torch.cat([torch.ones_like(stay[:1]), stay, torch.zeros_like(stay[:1])])
        u = self._uniform((num, int(free.sum())), generator)
        # The last step before which the position is still masked, and its rank in the row.
        step = num_steps + 1 - torch.bucketize(u, masked.flip(0), right=True)
        ordered, order = step.sort(-1)
        is_new = F.pad(ordered[:, 1:] != ordered[:, :-1], (min(1, ordered.shape[1]), 0)).long()
        turn = torch.full_like(xt, FREE)
        turn[:, free] = torch.empty_like(order).scatter(-1, order, is_new.cumsum(-1))
        for k in range(int(turn.max()) + 1):
            rows = (turn == k).any(-1).nonzero().squeeze(-1)
            at, now = turn[rows] == k, xt[rows]
            outputs = self.outputs(self.hidden(now, None)[at])
            weights = (outputs - outputs.amax(-1, keepdim=True)).exp()
            now[at] = categorical(weights, self._uniform((len(weights),), generator))
            xt[rows] = now
        return xt

    def _sample_steps(
        self, num: int, num_steps: int, fixed: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Of a network that takes sigma: each step is reversed exactly, position by position."""
        shape, free = (num, len(fixed)), fixed == FREE
        if self.mask_id is None:
            xt = torch.randint(self.num_states, shape, generator=generator, device=self.device)
        else:
            xt = torch.full(shape, self.mask_id, device=self.device)
        xt = torch.where(free, xt, fixed)
        # On the CPU, as the times of a card may differ in their last bit.
        times = torch.linspace(1, self.config.t_min, num_steps + 1, dtype=torch.float64)
        sigmas = [*self.sigma(times).to(self.device), None]
        for sigma, next_sigma in pairwise(sigmas):
            rows = torch.arange(num, device=self.device)
            if self.mask_id is not None:
                rows = (xt == self.mask_id).any(-1).nonzero().squeeze(-1)
            if not len(rows):
                continue
            now = xt[rows]
            at = free.expand_as(now) if self.mask_id is None else now == self.mask_id
            u = self._uniform(tuple(now.shape), generator)[at]
            asked = sigma[None].to(torch.promote_types(self.dtype, torch.float32))
            outputs = self.outputs(self.hidden(now, asked)[at]).double()
            now[at] = categorical(self._weights(outputs, now[at], sigma, next_sigma), u)
            xt[rows] = now
        return xt

    def _weights(
        self, outputs: Tensor, xt: Tensor, sigma: Tensor, next_sigma: Tensor | None
    ) -> Tensor:
        """Weights [n, K] of the states of a step to next_sigma, of the tokens where it is None.

        They are exp(-delta_sigma Q) score times p(xt | y) (SEDD eq. 19); at a mask that comes to
        expm1(delta_sigma) score for each token, and to what is left of 1 for the mask.
        """
        delta_sigma = sigma if next_sigma is None else sigma - next_sigma
        if self.conditional:
            # p(x0 | xt) noised to next_sigma, times p(xt | state).
            weights = outputs.softmax(-1)
            if next_sigma is not None:
                chance = -torch.expm1(-next_sigma)
                weights = weights * (1 - chance) + chance / self.num_states
            return weights * self._transition(xt, delta_sigma)
        score = self.log_score(outputs, xt, sigma.expand(len(xt))).exp()
        if self.mask_id is not None:
            weights = torch.expm1(delta_sigma) * score[:, : self.mask_id]
            if next_sigma is None:
                return weights
            return torch.cat([weights, 1 - weights.sum(-1, keepdim=True)], -1)
        mean = score.mean(-1, keepdim=True)
        staggered = score * delta_sigma.exp() - torch.expm1(delta_sigma) * mean
        return staggered * self._transition(xt, delta_sigma)

    def _transition(self, xt: Tensor, sigma: Tensor) -> Tensor:
        """p(xt | y) [n, V] of each earlier state y on graph `uniform`, after noise sigma."""
        stayed = F.one_hot(xt, self.num_states) * (-sigma).exp()
        return stayed - torch.expm1(-sigma) / self.num_states


class SEDDForMaskedLM(SEDDModel):
    """The same model on masks: logits of the token behind each mask, given the others."""

    def forward(
        self,
        input_ids: Tensor,
        sigma: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> MaskedLMOutput:
        """Logits [B, L, tokens] of tokens [B, L]; they mean something at masks alone.

        Args:
            input_ids: tokens, masks among them.
            sigma: of a raw score, total noise [B]; by default that under which as many are masked.
            attention_mask: must be 1 everywhere: the model knows no position that is left out.
        Raises:
            ValueError: the graph has no mask, or attention_mask leaves a position out.
        """
        refuse_left_out(attention_mask)
        if self.mask_id is None:
            raise ValueError("graph uniform has no mask: AutoModel gives its score")
        if self.timeless:
            return MaskedLMOutput(logits=self.outputs(self.hidden(input_ids, None)))
        if sigma is None:
            share = (input_ids == self.mask_id).double().mean(-1)
            sigma = (-torch.log1p(-share)).clamp(max=self.sigma(torch.ones_like(share[0])))
            sigma = sigma.to(torch.promote_types(self.dtype, torch.float32))
        outputs = self.outputs(self.hidden(input_ids, sigma))
        return MaskedLMOutput(logits=outputs[..., : self.mask_id])


def refuse_left_out(attention_mask: Tensor | None) -> None:
    """Raise ValueError where a position is to be left out of attention."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError("attention_mask must be 1 everywhere: every position is part of a text")
