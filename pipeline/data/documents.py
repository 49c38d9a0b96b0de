"""Which texts are documents of a split: an index of their hashes, 8 bytes a document.

It is searched where it lies, so that nobody reads the corpus again. A text that is none of N
documents passes for one with chance N / 2^64: of 8 million, once in 2 * 10^12 texts.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError

Keys = npt.NDArray[np.uint64]
TYPE = np.dtype("<u8")


def keys_of(texts: Iterable[str]) -> Keys:
    """A hash of each text [N]."""
    digests = (hashlib.blake2b(text.encode(), digest_size=TYPE.itemsize).digest() for text in texts)
    return np.frombuffer(b"".join(digests), TYPE)


def index_of(keys: Sequence[Keys]) -> bytes:
    """What the file of a split holds: each key once, in order."""
    return np.unique(np.concatenate(keys)).tobytes()


def path_of(packed: Path, split: str) -> Path:
    """The file of a split in the folder that `pack` wrote."""
    return packed / f"{split}.documents"


def documents_among(texts: Iterable[str], packed: Path, split: str) -> set[str]:
    """Those of `texts` that are documents of a split.

    Raises:
        DataError: the folder has no such index.
    """
    wanted = list(set(texts))
    if not wanted:
        return set()
    path, keys = path_of(packed, split), keys_of(wanted)
    try:
        index = np.memmap(path, TYPE, "r")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run dvc repro") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from None
    places = np.minimum(np.searchsorted(index, keys), len(index) - 1)
    return {text for text, found in zip(wanted, index[places] == keys, strict=True) if found}
