"""Accuracy of the last word: what is asked, and what is right."""

import pytest
import torch
from reference_files import write_byte_level
from toy import all_states, exact_model, small_model

from pipeline.data.gpt2 import read_gpt2_tokenizer
from pipeline.methods.draws import FREE
from pipeline.methods.sedd.method import likeliest
from pipeline.zeroshot.last_word import is_right, questions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return read_gpt2_tokenizer(write_byte_level(tmp_path_factory.mktemp("bytes"), num_merges=0))


def asked(tokenizer, *rows, length=100, most=None):
    found = questions(rows, tokenizer, length, most)
    return [(tokenizer.decode_all(ids), num) for ids, num in found]


def test_the_last_word_begins_at_the_last_blank(tokenizer):
    end = "<|endoftext|>"
    assert asked(tokenizer, "\nAn old man", "\nword", "a \n b ") == [
        (f"{end}\nAn old man", len(" man")),
        (f"{end}\nword", len("\nword")),
        (f"{end}a \n b ", len(" b ")),
    ]
    assert asked(tokenizer, "", "nothing\n", "a b") == [(f"{end}a b", 2)]


def test_long_texts_lose_their_start_and_words_longer_than_a_block_are_left_out(tokenizer):
    assert asked(tokenizer, "a long text", length=6) == [("g text", 5)]
    assert asked(tokenizer, "a longest", length=6) == []


def test_texts_are_chosen_evenly(tokenizer):
    rows = [f"a {number}" for number in range(10)]
    chosen = questions(rows, tokenizer, 100, 4)
    assert [tokenizer.decode_all(ids)[-1] for ids, _ in chosen] == ["0", "2", "5", "7"]


@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_likeliest_is_the_mode_of_each_position_given_the_fixed_ones(parameterization):
    model, p0 = exact_model("absorb", parameterization, length=3)
    fixed = all_states(4, 3) - 1  # FREE is -1
    assert FREE == -1
    found = likeliest(model, fixed)
    for row, guess in zip(fixed, found, strict=True):
        held = p0[tuple(slice(None) if v == FREE else slice(v, v + 1) for v in row.tolist())]
        for place, value in enumerate(row.tolist()):
            others = [axis for axis in range(3) if axis != place]
            mode = held.sum(others).argmax().item() if value == FREE else value
            assert guess[place] == mode


def test_the_uniform_graph_has_no_guess():
    with pytest.raises(ValueError, match="no conditioning"):
        likeliest(small_model("uniform"), torch.full((1, 3), FREE))


def test_a_word_is_right_if_each_of_its_tokens_is():
    """Of equal length together; what is not asked for may be anything."""
    texts = [([0, 1, 2], 1), ([0, 1, 3, 2], 2), ([5, 1, 3, 2], 2), ([0, 1, 2], 2)]
    seen = []

    def ask(ids, where):
        seen.append(len(ids))
        guess = torch.full_like(ids, 9)
        guess[:, -1] = 2  # the last one alone is ever right
        return guess

    right = is_right(texts, ask, batch_size=10, device=CPU)
    assert right.tolist() == [1, 0, 0, 0]
    assert seen == [2, 2]
