"""Texts to score, as token ids [N, L]: generated samples, or held-out blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from pipeline.data.tokenizer import Mode, TextTokenizer
from pipeline.errors import DataError
from pipeline.files import read_jsonl

if TYPE_CHECKING:
    from pipeline.data.packed import Packed

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Samples:
    """N texts.

    Attributes:
        num_steps: sampling steps asked for; None for real text.
        index: what each text is called in a list of excluded ones [N].
        ids: tokens [N, L].
        texts: the decoded text of each: up to its first eos, of running text all.
        nfe: network evaluations behind each [N].
        mode: `pad`, each ends at its first eos; else each is a window of running text.
        labels: what each was asked for, by column; empty where nothing was.
    """

    num_steps: int | None
    index: Ints
    ids: Ints
    texts: list[str]
    nfe: Floats
    mode: Mode = "pad"
    labels: Sequence[dict[str, str]] = ()

    @classmethod
    def read(cls, path: Path, mode: Mode = "pad") -> Self:
        """Read the rows that the sample stage wrote, of a model of blocks packed by `mode`.

        Raises:
            DataError: the file is missing, damaged, or has no row.
        """
        try:
            rows = read_jsonl(path)
            return cls(
                num_steps=int(rows[0]["num_steps"]),
                index=np.array([row["index"] for row in rows], np.int64),
                ids=np.array([row["ids"] for row in rows], np.int64).reshape(len(rows), -1),
                texts=[str(row["text"]) for row in rows],
                nfe=np.array([row["nfe"] for row in rows], np.float64),
                mode=mode,
                labels=[row["labels"] for row in rows if "labels" in row],
            )
        except FileNotFoundError:
            raise DataError(f"{path} is missing: no samples to score") from None
        except IndexError:
            raise DataError(f"{path} holds no sample") from None
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the samples in {path} are damaged: {error!r}") from error

    @classmethod
    def held_out(cls, packed: "Packed", index: Ints, tokenizer: TextTokenizer) -> Self:
        """Blocks of the held-out split as samples are, `index` [N] being their places in it."""
        ids = packed.test[index].astype(np.int64)
        return cls(
            num_steps=None,
            index=index,
            ids=ids,
            texts=[tokenizer.decode(row, packed.meta.mode) for row in ids],
            nfe=np.zeros(len(ids)),
            mode=packed.meta.mode,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def num_tokens(self, eos_id: int | None) -> Ints:
        """How many tokens of each, from its start, are its text, with the eos that ends it [N]."""
        if self.mode != "pad":
            return np.full(len(self), self.ids.shape[1])
        is_eos = self.ids == eos_id
        return np.where(is_eos.any(axis=1), is_eos.argmax(axis=1) + 1, self.ids.shape[1])

    def well_formed(self, vocabulary: TextTokenizer) -> Bools:
        """Which are one non-special token or more, eos, then only pad [N].

        Of running text which hold nothing but text, and eos anywhere.
        """
        v, special = vocabulary, np.isin(self.ids, list(vocabulary.special_ids))
        is_text = ~special & (self.ids >= 0) & (self.ids < v.size)
        if self.mode != "pad":
            return (is_text | (self.ids == v.eos_id)).all(axis=1)
        num_tokens = self.num_tokens(v.eos_id)[:, None]
        position = np.arange(self.ids.shape[1])
        text, end = position < num_tokens - 1, position == num_tokens - 1
        is_end, is_pad = self.ids == v.eos_id, self.ids == v.pad_id
        allowed = np.where(text, is_text, np.where(end, is_end, is_pad))
        return allowed.all(axis=1) & (num_tokens[:, 0] > 1)
