"""Causal language models of transformers, as scoring asks for them: states, then some nats."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.errors import CheckpointError, read_by_library
from pipeline.kernels.precision import Precision, products_in

LOGITS = 2**22
"""Logits that are held at a time: 16 MB of float32, which a cache holds."""
ATTEND_WITHIN = "within_texts"
"""The name that transformers knows `attend_within` by."""


class CausalLM:
    """A causal model of transformers; its states are its logits.

    In bfloat16 its matrix products are rounded as autocast has it.

    Attributes:
        pads: whether shorter texts are padded to the length of the longest.
    """

    pads = True

    def __init__(self, model: Any, precision: Precision) -> None:
        self.device, self._model = model.device, model
        self.vocab_size = int(model.config.vocab_size)
        self.max_tokens: int | None = getattr(model.config, "max_position_embeddings", None)
        self._precision = precision

    def states(self, texts: Sequence[Tensor]) -> Tensor:
        """What `nats` takes, [N, D], of all N tokens of texts, one text after another."""
        with products_in(self._precision, self.device):
            return self._states(texts)

    def hidden(self, texts: Sequence[Tensor]) -> Tensor:
        """The last hidden states [N, D] of all N tokens of texts, one text after another."""
        with products_in(self._precision, self.device):
            return self._hidden(texts)

    def _states(self, texts: Sequence[Tensor]) -> Tensor:
        found, real = self._padded(texts)
        logits: Tensor = found.logits[real]
        return logits

    def _hidden(self, texts: Sequence[Tensor]) -> Tensor:
        found, real = self._padded(texts, output_hidden_states=True)
        states: Tensor = found.hidden_states[-1][real]
        return states

    def _padded(self, texts: Sequence[Tensor], **how: bool) -> tuple[Any, Tensor]:
        """What the model makes of texts, and where in it [B, L] they are."""
        ids = pad_sequence(list(texts), batch_first=True)
        real = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        return self._model(ids, attention_mask=real, use_cache=False, **how), real.bool()

    def nats(self, states: Tensor, targets: Tensor) -> Tensor:
        """Negative log likelihood [N] of targets [N], each next after states [N, D]."""
        # Not all at once: their log probabilities take as much memory again, in float32.
        size = max(1, 4 * LOGITS // self.vocab_size)
        parts = zip(torch.split(states, size), torch.split(targets, size), strict=True)
        return torch.cat([F.cross_entropy(x.float(), y, reduction="none") for x, y in parts])

    def likeliest(self, states: Tensor) -> Tensor:
        """The likeliest token [N] next after states [N, D]."""
        return states.argmax(-1)


class GPT2(CausalLM):
    """GPT-2: texts one after another in a row, and a head at the positions that are asked for."""

    pads = False

    def __init__(self, model: Any, precision: Precision) -> None:
        super().__init__(model, precision)
        from transformers import AttentionInterface
        from transformers.pytorch_utils import Conv1D

        AttentionInterface.register(ATTEND_WITHIN, attend_within)
        model.set_attn_implementation(ATTEND_WITHIN)
        self._head = model.lm_head.weight.detach()
        if precision == "bfloat16":
            # Once, where autocast would do it for each batch.
            for module in model.modules():
                if isinstance(module, Conv1D):
                    module.to(torch.bfloat16)
            # It moves all logits of a position alike, and small ones are rounded less.
            self._head = (self._head - self._head.mean(0)).to(torch.bfloat16)

    def _states(self, texts: Sequence[Tensor]) -> Tensor:
        lengths = [len(text) for text in texts]
        places = torch.cat([torch.arange(length, device=self.device) for length in lengths])
        states: Tensor = self._model.transformer(
            torch.cat(list(texts))[None],
            position_ids=places[None],
            use_cache=False,
            lengths=lengths,
        ).last_hidden_state
        return states.squeeze(0)

    def _hidden(self, texts: Sequence[Tensor]) -> Tensor:
        return self._states(texts)

    def nats(self, states: Tensor, targets: Tensor) -> Tensor:
        """See CausalLM."""
        states = states.to(self._head.dtype)
        log_total = states.new_full((len(states),), -math.inf, dtype=torch.float32)
        for head in torch.split(self._head, max(1, LOGITS // len(states))):
            logits = (states @ head.T).float()
            log_total = torch.logaddexp(log_total, logits.logsumexp(-1))
        return log_total - (states.float() * self._head[targets].float()).sum(-1)

    def likeliest(self, states: Tensor) -> Tensor:
        """See CausalLM."""
        size = max(1, LOGITS // self.vocab_size)
        parts = torch.split(states.to(self._head.dtype), size)
        return torch.cat([(part @ self._head.T).argmax(-1) for part in parts])


def attend_within(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    lengths: Sequence[int],
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention [1, T, H, d] of texts that stand in a row, [1, H, T, d], each to itself.

    As transformers asks attention functions to be; texts of equal length that are neighbours share
    a call.
    """
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]
    sizes = [length * num for length, num in runs]
    split = (torch.split(tensor.squeeze(0), sizes, dim=1) for tensor in (query, key, value))
    attended = []
    for (length, num), *parts in zip(runs, *split, strict=True):
        q, k, v = (part.unflatten(1, (num, length)).transpose(0, 1) for part in parts)
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
        attended.append(found.transpose(1, 2).flatten(0, 1))
    return torch.cat(attended)[None], None


def load_causal(folder: Path, device: torch.device, precision: Precision) -> CausalLM:
    """The model in `folder`, in evaluation mode on `device`.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the config.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    quiet: Any = logging.disable_progress_bar
    quiet()
    load: Any = AutoModelForCausalLM.from_pretrained
    with read_by_library(f"the model in {folder} is damaged"):
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
        if getattr(config, "activation_function", None) == "gelu_new":
            # The same function, in one kernel.
            config.activation_function = "gelu_pytorch_tanh"
        model, info = load(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"]))
        raise CheckpointError(f"the model in {folder} is damaged: its weights lack {missing}")
    if unused := sorted(info["unexpected_keys"]):
        raise CheckpointError(
            f"the model in {folder} is not what its config says: no place for {unused[0]}"
            + (f" and {len(unused) - 1} more weights" if unused[1:] else "")
        )
    kind = GPT2 if config.model_type == "gpt2" else CausalLM
    return kind(model.eval().to(device), precision)
