"""Blocks of documents: the streams, remainders and frames of each protocol."""

import numpy as np
import pytest

from pipeline.zeroshot.blocks import GROUP, cut
from pipeline.zeroshot.protocols import PROTOCOLS

DOCUMENTS = [[1, 2, 3], [], [4, 5, 6, 7], [8, 9]]
FRAMED = [[0, 1, 2, 0], [0, 3, 4, 0], [0, 5, 6, 0], [0, 7, 8, 0]]
# Protocol, workers, blocks of length 4, and how many tokens are dropped.
GOLDEN = [
    ("exact", 1, [[1, 2, 3, 0], [0, 4, 5, 6], [7, 0, 8, 9], [0]], 0),
    ("exact", 8, [[1, 2, 3, 0], [0, 4, 5, 6], [7, 0, 8, 9], [0]], 0),
    ("sedd", 1, [[1, 2, 3, 0], [0, 4, 5, 6], [7, 0, 8, 9]], 1),
    ("sedd", 2, [[1, 2, 3, 0], [4, 5, 6, 7], [0, 8, 9, 0]], 1),
    (
        "mdlm",
        1,
        [[0, 1, 2, 0], [0, 3, 0, 0], [0, 0, 4, 0], [0, 5, 6, 0], [0, 7, 0, 0], [0, 8, 9, 0]],
        1,
    ),
    ("duo", 1, FRAMED, 1),
    ("bd3lm", 1, FRAMED, 1),
]


def blocks_of(name, documents, length=4, workers=1):
    return cut(documents, PROTOCOLS[name], length=length, eos_id=0, workers=workers)


@pytest.mark.parametrize(("name", "workers", "expected", "dropped"), GOLDEN)
def test_golden_blocks(name, workers, expected, dropped):
    blocks = blocks_of(name, DOCUMENTS, workers=workers)
    assert [row.tolist() for ids in blocks.by_length() for row in ids] == expected
    assert len(blocks) == blocks.num_of == len(expected)
    assert blocks.num_dropped == dropped


def test_the_rest_of_every_thousand_rows_is_dropped():
    documents = [[7]] * (2 * GROUP + 1)
    blocks = blocks_of("sedd", documents, length=3)
    assert (len(blocks), blocks.num_dropped) == (2 * (2 * GROUP // 3), 2 * (2 * GROUP % 3) + 2)


def test_the_first_workers_have_one_row_more():
    documents = [[row] for row in range(1, 6)]
    blocks = blocks_of("sedd", documents, length=2, workers=3)
    assert blocks.whole.tolist() == [[1, 0], [2, 0], [3, 0], [4, 0], [5, 0]]
    blocks = blocks_of("duo", documents, length=4, workers=3)
    assert blocks.whole.tolist() == [[0, 1, 2, 0], [0, 3, 4, 0]]
    assert blocks.num_dropped == 1


def test_more_workers_than_rows_are_one_a_row():
    assert blocks_of("sedd", DOCUMENTS, workers=99).whole.tolist() == [[1, 2, 3, 0], [4, 5, 6, 7]]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_documents_are_no_blocks(name):
    blocks = blocks_of(name, [])
    assert (len(blocks), blocks.num_dropped, blocks.by_length()) == (0, 0, [])


def test_chosen_blocks_are_evenly_spaced_and_the_tail_is_one_of_them():
    blocks = blocks_of("exact", [list(range(1, 38))], length=4)  # nine and a tail of two
    chosen = blocks.chosen(5)
    assert chosen.whole[:, 0].tolist() == [1, 9, 17, 25, 33]
    assert (len(chosen), chosen.num_of, chosen.tail.size) == (5, 10, 0)
    assert blocks.chosen(10) is blocks.chosen(None) is blocks
    lone = blocks_of("exact", [[1]], length=4)
    assert lone.chosen(1).tail.tolist() == [1, 0]


def test_a_block_too_short_for_a_token_is_refused():
    with pytest.raises(ValueError, match="at least 3 tokens"):
        blocks_of("mdlm", DOCUMENTS, length=2)


def test_ids_are_kept_beyond_sixteen_bits():
    assert blocks_of("exact", [[50256, 70000]], length=3).whole.tolist() == [[50256, 70000, 0]]
    assert blocks_of("exact", [np.array([5])], length=2).whole.tolist() == [[5, 0]]
