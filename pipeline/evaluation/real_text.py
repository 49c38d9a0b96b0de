"""Held-out blocks as samples are, so that both are scored alike."""

import numpy as np

from pipeline.data.packed import Packed
from pipeline.data.tokenizer import TextTokenizer
from pipeline.evaluation.samples import Ints, Samples


def held_out_blocks(packed: Packed, index: Ints, tokenizer: TextTokenizer) -> Samples:
    """Blocks of the held-out split as samples are, `index` [N] being their places in it."""
    ids = packed.test[index].astype(np.int64)
    return Samples(
        num_steps=None,
        index=index,
        ids=ids,
        texts=[tokenizer.decode(row, packed.meta.mode) for row in ids],
        nfe=np.zeros(len(ids)),
        mode=packed.meta.mode,
    )
