"""The score network: tokens, and sigma, to outputs, SEDD appendix C.1.

Names and shapes of parameters are those of the paper's code, so that its checkpoints load.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.kernels.precision import widened
from pipeline.network.guidance import Guided
from pipeline.network.layers import Embedding, SigmaEmbedding
from pipeline.network.trunk import Trunk


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights to `dtype`; the frequencies of rotary positions stay in float32."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)


def _silent(num_rows: int, width: int) -> nn.Embedding:
    """Rows of 0, of which the first stays so."""
    embedding = nn.Embedding(num_rows, width, padding_idx=0)
    nn.init.zeros_(embedding.weight)
    return embedding


class Transformer(Guided, Trunk):
    """Tokens [B, L], and sigma [B] where cond_dim is given, to outputs [B, L, num_outputs].

    `label_sizes` are how many values each label has, counted from 1; 0 is one that is not said,
    and adds nothing. All begin at 0, so that a new network is the same whatever it is told.
    """

    def __init__(
        self,
        *,
        num_states: int,
        num_outputs: int,
        width: int,
        num_blocks: int,
        num_heads: int,
        cond_dim: int | None,
        dropout: float,
        num_positions: int | None = None,
        norm_bias: bool = False,
        label_sizes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.vocab_embed = Embedding(num_states, width)
        # Rotary positions are relative: among masks alone, nothing tells the first from the last.
        self.position_embed = Embedding(num_positions, width) if num_positions else None
        if cond_dim is None:
            # Without gates that start closed, blocks would drown smaller embeddings.
            for embedding in self.vocab_embed, self.position_embed:
                if embedding is not None:
                    nn.init.normal_(embedding.embedding)
        self.sigma_map = SigmaEmbedding(cond_dim) if cond_dim is not None else None
        self.label_embeds = nn.ModuleList(
            _silent(1 + size, cond_dim or width) for size in label_sizes
        )
        self.add_blocks(
            num_outputs=num_outputs,
            width=width,
            num_blocks=num_blocks,
            num_heads=num_heads,
            cond_dim=cond_dim,
            dropout=dropout,
            norm_bias=norm_bias,
        )

    def forward(self, xt: Tensor, sigma: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Outputs [B, L, num_outputs], or [N, num_outputs] at the N positions `at` [B, L] marks."""
        return self.outputs(self.hidden(xt, sigma, at))

    def hidden_given(
        self,
        labels: Tensor | None,
        xt: Tensor,
        sigma: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """What the head takes, [B, L, D], or [N, D] at the N positions that `at` [B, L] marks.

        One sigma [1] serves all rows, and so does one row of labels [1, K]. They are added to what
        is made of sigma; where the network takes none, to each position.

        Raises:
            ValueError: the network takes sigma, and there is none, or other labels.
        """
        given = None if labels is None else self._of_labels(labels)
        cond = None
        if self.sigma_map is not None:
            if sigma is None:
                raise ValueError("this network takes sigma")
            cond = self.sigma_map(sigma)
            cond = F.silu(cond if given is None else cond + given)
        # What blocks add up stays in float32 where weights are narrower.
        if self._projects_states(xt, cond):
            return self.through(widened(self.vocab_embed.embedding)[None], cond, at, ids=xt)
        x = widened(self.vocab_embed(xt))
        if self.position_embed is not None:
            x = x + self.position_embed.embedding[: xt.shape[1]]
        if given is not None and self.sigma_map is None:
            x = x + given[:, None]
        return self.through(x, cond, at)

    def _of_labels(self, labels: Tensor) -> Tensor:
        columns = zip(self.label_embeds, labels.unbind(1), strict=True)
        return torch.stack([embedding(column) for embedding, column in columns]).sum(0)

    def _projects_states(self, xt: Tensor, cond: Tensor | None) -> bool:
        """Whether the first block does better to project each state once than each of xt [B, L].

        It may where positions that hold the same token are alike, and no gradient is wanted.
        """
        alike = self.position_embed is None and (cond is None or len(cond) == 1)
        fewer = 2 * len(self.vocab_embed.embedding) <= xt.numel()
        # On a card a look-up costs no less than the product that it spares.
        alike &= xt.device.type == "cpu"
        return alike and fewer and len(self.blocks) > 1 and not torch.is_grad_enabled()
