"""The language model behind a generative perplexity, known by its name and its weights' hash."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.data.tokenizer import parsed
from pipeline.errors import CheckpointError, PipelineError, read_by_library
from pipeline.evaluation.causal import CausalLM, load_causal
from pipeline.files import check_revision, folder_revision, from_root
from pipeline.files import sha256 as file_sha256
from pipeline.hub import from_hub
from pipeline.kernels.precision import Precision

HUB = ("gpt2", "gpt2-large")
HUB_FILES = [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
]
INSTEAD = "use baseline, or a folder with the model"


@dataclass(frozen=True)
class Scorer:
    """A causal language model.

    Attributes:
        name: `baseline`, the name on the Hugging Face hub, or the folder's own name.
        sha256: of the weights file; of the list of hashes when there are several.
        precision: of its matrix products; weights are kept, and nats computed, in float32.
        model: the network.
        start_id: token before each text.
        tokenizer: turns text to ids; None for a scorer whose ids are the samples' own.
    """

    name: str
    sha256: str
    precision: Precision
    model: CausalLM
    start_id: int
    tokenizer: Any | None

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Each text in the scorer's own tokens; special ones are not added, and spelled are text.

        Raises:
            ValueError: this scorer takes the samples' own ids.
        """
        if self.tokenizer is None:
            raise ValueError(f"the scorer {self.name} reads no text")
        # Long texts are no mistake here, they are scored in windows.
        how = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        ids: list[list[int]] = self.tokenizer(texts, **how)["input_ids"]
        return ids


def scorer_revision(name: str, key: str = "score.scorer") -> str | None:
    """What pins the scorer that `key` names, as it is now; None for the baseline.

    Of a model of the hub the newest commit, of a folder the hash over its files.

    Raises:
        PipelineError: the hub is out of reach, and its cache has no such model.
    """
    if name in HUB:
        return from_hub(name, ["config.json"], key=key, instead=INSTEAD).name
    folder = from_root(name)
    return folder_revision(folder) if name != "baseline" and folder.is_dir() else None


def check_scorer(name: str, pinned: str | None, key: str = "score.scorer_revision") -> None:
    """Check that a scorer is pinned under `key`, a folder as it is.

    Raises:
        PipelineError: it is not.
    """
    if name in HUB and not re.fullmatch("[0-9a-f]{40}", pinned or ""):
        raise PipelineError(
            f"{key}: a commit of {name} on the Hugging Face hub is asked for (got {pinned}): "
            "`sedd pin` writes the newest"
        )
    if name not in ("baseline", *HUB) and (folder := from_root(name)).is_dir():
        check_revision(key, folder, pinned)


def load_scorer(
    name: str,
    *,
    baseline: Path,
    tokenizer: str,
    start_id: int,
    device: torch.device,
    precision: Precision,
    commit: str | None = None,
) -> Scorer:
    """Load the scorer that `score.scorer` names.

    Args:
        name: `baseline`, `gpt2`, `gpt2-large`, or a folder that transformers can load.
        baseline: folder of the trained baseline.
        tokenizer: text of the samples' tokenizer.json, which must be the baseline's too.
        start_id: start token of the baseline.
        precision: of matrix products.
        commit: of a model of the hub; the newest if None.
    Returns:
        the scorer; one whose own tokenizer encodes as the samples' does takes their ids.
    Raises:
        PipelineError: there is no such scorer here.
        CheckpointError: its files are damaged, or the baseline belongs to another tokenizer.
    """
    if name == "baseline":
        _check_tokenizer(baseline, hashlib.sha256(tokenizer.encode()).hexdigest())
        sha256 = weights_sha256(baseline)
        model = load_causal(baseline, device, precision)
        return Scorer(name, sha256, precision, model, start_id, None)
    if name in HUB:
        folder = from_hub(name, HUB_FILES, key="score.scorer", instead=INSTEAD, revision=commit)
    else:
        folder = model_folder(name)
    own = _load_tokenizer(name, folder)
    start_id = own.eos_token_id if own.bos_token_id is None else own.bos_token_id
    if start_id is None:
        raise CheckpointError(f"score.scorer: the tokenizer in {folder} has no bos and no eos")
    backend = getattr(own, "backend_tokenizer", None)
    takes_ids = backend is not None and encoding_of(backend.to_str()) == encoding_of(tokenizer)
    label = name if name in HUB else folder.name
    sha256 = weights_sha256(folder)
    model = load_causal(folder, device, precision)
    return Scorer(label, sha256, precision, model, start_id, None if takes_ids else own)


def model_folder(name: str) -> Path:
    """The folder of a model that `score.scorer` names by its path.

    Raises:
        CheckpointError: it holds none.
    """
    folder = from_root(name)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"score.scorer: {folder} holds no transformers model (got {name}); "
            f"use baseline, {', '.join(HUB)} or a folder with config.json and *.safetensors"
        )
    return folder


def encoding_of(definition: str, where: str = "tokenizer.json") -> dict[str, Any]:
    """What in a tokenizer.json decides which ids a text gets: equal for tokenizers that agree.

    Offsets, decoding, padding and tokens put around a text do not matter to it.

    Raises:
        DataError: it is no tokenizer; the message begins with `where` it stands.
    """
    # Through the library, since a file may leave keys out and write merges in two ways.
    parts = json.loads(parsed(definition, where).to_str())
    return {
        # No prefix and an empty one are the same, and so on.
        "model": {key: value or None for key, value in parts["model"].items()},
        "normalizer": parts["normalizer"],
        "pre_tokenizer": _without_offsets(parts["pre_tokenizer"]),
        "added_tokens": {token["id"]: token["content"] for token in parts["added_tokens"]},
    }


def _without_offsets(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _without_offsets(part[key]) for key in part if key != "trim_offsets"}
    return [_without_offsets(each) for each in part] if isinstance(part, list) else part


def weights_sha256(folder: Path) -> str:
    """Hash of the folder's weights: of the one file, or of the list of its files' hashes.

    Raises:
        CheckpointError: the folder has no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"no model in {folder}: it has no *.safetensors file")
    hashes = [file_sha256(path) for path in files]
    if len(hashes) == 1:
        return hashes[0]
    listing = "".join(f"{sha}  {path.name}\n" for sha, path in zip(hashes, files, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def _check_tokenizer(folder: Path, tokenizer_sha256: str) -> None:
    try:
        own = file_sha256(folder / "tokenizer.json")
    except FileNotFoundError:
        raise CheckpointError(f"no baseline in {folder}: tokenizer.json is missing") from None
    if own != tokenizer_sha256:
        raise CheckpointError(
            f"the baseline in {folder} belongs to another tokenizer "
            f"({own[:12]}, the samples' is {tokenizer_sha256[:12]}): train it again"
        )


def _load_tokenizer(name: str, folder: Path) -> Any:
    from transformers import AutoTokenizer

    with read_by_library(f"score.scorer: no tokenizer can be loaded from {folder} (got {name})"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
