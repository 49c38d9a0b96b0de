"""Labels of texts, and guidance by them: what a network's head takes, with labels and without."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Guided:
    """What the head takes, for a while given labels.

    Outputs are logits, and a linear map of what the head takes: weighing the latter weighs the
    former, so that w outputs given labels and 1 - w without are those of
    log p_w = (1 - w) log p + w log p(given labels), normalised (arXiv 2207.12598, whose w is less
    by 1).
    """

    _labels: Tensor | None = None
    _guidance = 1.0

    @contextmanager
    def labelled(self, labels: Tensor | None, guidance: float = 1.0) -> Iterator[None]:
        """Let rows of labels [B, K], or [1, K] of all, be given; guidance is w."""
        self._labels, self._guidance = labels, guidance
        try:
            yield
        finally:
            self._labels, self._guidance = None, 1.0

    def hidden(self, xt: Tensor, sigma: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """What the head takes, [B, L, D], or [N, D] at the N positions that `at` [B, L] marks."""
        labels, w = self._labels, self._guidance
        if labels is None or w == 1:
            return self.hidden_given(labels, xt, sigma, at)
        without = self.hidden_given(None, xt, sigma, at)
        if w == 0:
            return without
        return torch.lerp(without, self.hidden_given(labels, xt, sigma, at), w)

    @abstractmethod
    def hidden_given(
        self,
        labels: Tensor | None,
        xt: Tensor,
        sigma: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """As `hidden`, given rows of labels [B, K] or [1, K], or none."""
