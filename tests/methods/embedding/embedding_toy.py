"""Small embedding models: with random weights, and the Bayes denoiser of texts of two tokens."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import small_embedding

from pipeline.methods.draws import FREE
from pipeline.methods.embedding.loss import Denoising
from pipeline.methods.embedding.model import EmbeddingConfig, EmbeddingDiffusion
from pipeline.methods.embedding.network import picked
from pipeline.methods.embedding.vectors import Level, by_row


def embedding_config(**changes: object) -> EmbeddingConfig:
    cond_dim = 8 if changes.get("input") == "vector" else None
    sizes = {"vocab_size": 7, "length": 5, "num_blocks": 2, "cond_dim": cond_dim}
    return small_embedding(**sizes | changes)


def random_model(**changes: object) -> EmbeddingDiffusion:
    """A model with random weights, of which none is 0."""
    torch.manual_seed(0)
    model = EmbeddingDiffusion(embedding_config(**changes))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
def bayes_model(p0: Tensor, **changes: object) -> EmbeddingDiffusion:
    """A model whose p(x_i | z) is exact for texts of two tokens with probabilities p0 [V, V].

    What it hands to the head, a unit matrix, is log p(x_i | z of the other position).
    """
    num_tokens, dim = len(p0), 2
    torch.manual_seed(0)
    usual = {"vocab_size": num_tokens, "length": 2, "dim": dim, "self_condition": 0.0}
    model = EmbeddingDiffusion(embedding_config(**(usual | changes))).eval()
    network, p0 = model.network, p0.float()
    angles = 2 * math.pi / num_tokens * torch.arange(num_tokens)
    network.vectors.weight.copy_(torch.stack([angles.cos(), angles.sin()], -1))
    network.output_layer.linear = nn.Linear(num_tokens, num_tokens)
    network.head.weight.copy_(torch.eye(num_tokens))
    network.head.bias.zero_()

    def hidden(
        z: Tensor,
        g: Tensor,
        known: Tensor,
        estimate: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        own = (by_row(Level.at(g, dim).evidence, z) * z @ network.vectors().T).softmax(-1)
        given = F.one_hot(known.clamp(min=0), num_tokens).to(own)
        first, second = torch.where((known == FREE)[..., None], own, given).unbind(1)
        log_p = torch.stack([second @ p0.T, first @ p0], 1).log()
        return log_p if at is None else picked(log_p, at)

    network.hidden = hidden  # type: ignore[method-assign]
    return model


def free(num: int, length: int) -> Tensor:
    """No known tokens [num, length]."""
    return torch.full((num, length), FREE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def objective_of(**changes: object) -> Denoising:
    """What is trained of a model with random weights, in float64."""
    return Denoising(random_model(**changes).double().train())


def drawn_for(objective: Denoising, rows: int = 24, seed: int = 0) -> tuple[Tensor, ...]:
    """What a step draws for so many random texts."""
    config, generator = objective.module.config, seeded(seed)
    x0 = torch.randint(config.vocab_size, (rows, config.length), generator=generator)
    return objective.draw(x0, generator)
