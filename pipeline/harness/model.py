"""A model of this project for lm-evaluation-harness: importing this registers it as `sedd`."""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from pipeline.checkpoints.checkpoint import TOKENIZER, load_checkpoint
from pipeline.data.tokenizer import TextTokenizer
from pipeline.device import memory_for, pick_device, pick_precision
from pipeline.files import from_root
from pipeline.harness.requests import Answering
from pipeline.progress import progress

MAX_NEW_TOKENS = 256
"""Tokens that are drawn where a task names no number."""


@register_model("sedd")
class DiffusionLM(LM):  # type: ignore[misc]  # the package has no types here
    """Likelihoods are minus an upper bound: their sum over a target, its context never masked."""

    def __init__(
        self,
        folder: str,
        num_draws: int = 128,
        num_steps: int = 128,
        seed: int = 0,
        batch_size: int | str | None = 8,
        device: str | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        where = pick_device(device or "auto")
        place = from_root(folder)
        self._answering = Answering(
            load_checkpoint(place, where),
            TextTokenizer.load(place / TOKENIZER),
            pick_precision("auto", where, "device"),
            num_draws=num_draws,
            num_steps=num_steps,
            batch_size=int(batch_size or 8),
            seed=seed,
        )

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each target after its context, and whether all is likeliest."""
        texts = [self._answering.split(*request.args) for request in requests]
        with memory_for("batch_size"):
            found = self._answering.log_likelihoods(texts)
            greedy = self._answering.are_likeliest(texts)
        return list(zip(found, greedy, strict=True))

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood in nats of each whole text after an eos, by blocks."""
        texts = [(self._answering.split("", request.args[0])[0], 1) for request in requests]
        with memory_for("batch_size"):
            return self._answering.log_likelihoods(texts)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """A draw after each context, of as many tokens as the task allows, up to a stop."""
        generator = self._answering.generator()
        bar = progress(requests, desc="continuations", unit="text")
        asked = (request.args for request in bar)
        return [self._continued(context, how, generator) for context, how in asked]

    def _continued(self, context: str, how: dict[str, Any], generator: torch.Generator) -> str:
        until = how.get("until") or []
        most = int(how.get("max_gen_toks", min(MAX_NEW_TOKENS, self._answering.model.length // 2)))
        stops = [until] if isinstance(until, str) else list(until)
        return self._answering.continuation(context, most, stops, generator)
