"""The evaluate stage: the bound beside the baseline's exact value."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.data.byte_level import train_bpe_tokenizer
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import PipelineError
from pipeline.evaluation.likelihood import Sizes, likelihood
from pipeline.methods.estimates import Bound


def test_likelihood_in_every_unit():
    generator = torch.Generator().manual_seed(0)
    num_chars = torch.tensor([4, 6, 5, 5])
    integral = 2.0 * num_chars + 0.1 * torch.randn(16, 4, generator=generator, dtype=torch.float64)
    prior = torch.full((4,), 0.5, dtype=torch.float64)
    reconstruction = torch.full((16, 4), 0.25, dtype=torch.float64)
    exact = 1.5 * num_chars.double()
    sizes = Sizes(
        tokens=torch.tensor([2, 3, 3, 2]), chars=num_chars, bytes=torch.tensor([8, 12, 10, 10])
    )
    values = likelihood(Bound(integral, prior, reconstruction), exact, sizes)

    per_block = (integral + prior + reconstruction).mean().item()
    assert values["bound_nats_per_block"] == pytest.approx(per_block)
    assert values["bound_nats_per_char"] == pytest.approx(per_block / 5)
    assert values["bound_bits_per_char"] == pytest.approx(per_block / 5 / math.log(2))
    assert values["bound_nats_per_token"] == pytest.approx(per_block / 2.5)
    assert values["bound_perplexity_per_token"] == pytest.approx(math.exp(per_block / 2.5))
    assert values["bound_bits_per_byte"] == pytest.approx(per_block / 10 / math.log(2))
    assert values["baseline_nats_per_token"] == pytest.approx(3)
    assert values["baseline_perplexity_per_token"] == pytest.approx(math.exp(3))
    assert values["baseline_bits_per_byte"] == pytest.approx(0.75 / math.log(2))
    assert values["baseline_bits_per_char"] == pytest.approx(1.5 / math.log(2))
    assert values["baseline_nats_per_block"] == pytest.approx(7.5)
    assert values["baseline_nats_per_char"] == pytest.approx(1.5)
    assert values["baseline_stderr"] == pytest.approx(0, abs=1e-12)
    assert values["gap_nats_per_char"] == pytest.approx(per_block / 5 - 1.5)
    assert values["terms"]["prior"] == 0.5
    assert values["terms"]["reconstruction"] == 0.25
    assert sum(values["terms"].values()) == pytest.approx(per_block)
    assert values["bound_stderr"] == pytest.approx(
        math.hypot(values["bound_mc_stderr"], values["bound_data_stderr"])
    )
    # The baseline here is the same for every character, and adds no error of its own.
    assert values["gap_stderr"] == pytest.approx(values["bound_stderr"])
    counts = [values[f"num_{what}"] for what in ("texts", "tokens", "chars", "bytes")]
    assert counts == [4, 10, 20, 40]
    named = [key for key in values if "perplexity" in key]
    assert named
    assert all(key.endswith("_perplexity_per_token") for key in named)


TOKENIZERS = {
    "char": train_char_tokenizer(["abcé€"]),
    "bytes": train_bpe_tokenizer(["é€ a, b é€", "c é"] * 9, vocab_size=270),
}


@pytest.mark.parametrize("mode", ["pad", "concat"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_sizes_of_blocks_are_those_of_each(kind, mode):
    """Of any ids, special ones, unknown ones and halves of characters among them."""
    tokenizer = TOKENIZERS[kind]
    rows = np.random.default_rng(0).integers(tokenizer.size, size=(3000, 9), dtype=np.uint16)
    meta = SimpleNamespace(labels={}, mode=mode, eos_id=tokenizer.eos_id, vocab_size=tokenizer.size)
    sizes = Sizes.of(Packed(rows, rows, rows, meta), tokenizer, np.arange(3000))
    assert sizes.tokens.tolist() == list(range(3000))
    assert sizes.chars.tolist() == [tokenizer.num_chars(row, mode) for row in rows]
    assert sizes.bytes.tolist() == [tokenizer.num_bytes(row, mode) for row in rows]
    assert not torch.equal(sizes.chars, sizes.bytes)


def test_the_error_of_the_gap_is_paired():
    """Hard texts are hard for both: their spread is no error of the difference."""
    num_chars = torch.full((50,), 5)
    hardness = 10 * torch.rand(50, generator=torch.Generator().manual_seed(0)).double()
    zero = torch.zeros(50, dtype=torch.float64)
    bound = Bound((hardness + 1).expand(16, -1), zero, zero.expand(16, -1))
    values = likelihood(bound, hardness, Sizes(num_chars, num_chars, num_chars))
    assert values["gap_nats_per_char"] == pytest.approx(0.2)
    assert values["gap_stderr"] == pytest.approx(0, abs=1e-9)
    assert values["baseline_stderr"] > 0.05


def one_text(nats, replicates=16, num_bytes=1):
    zero = torch.zeros(1, dtype=torch.float64)
    bound = Bound(torch.full((replicates, 1), nats).double(), zero, zero.expand(replicates, -1))
    five = torch.tensor([5])
    return likelihood(bound, torch.tensor([nats]).double(), Sizes(five, five, num_bytes * five))


def test_one_text_has_no_spread():
    values = one_text(10.0)
    assert values["bound_nats_per_char"] == pytest.approx(2)
    assert values["bound_data_stderr"] == values["baseline_stderr"] == values["gap_stderr"] == 0
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_texts_that_are_all_empty_have_no_bits_a_byte():
    values = one_text(10.0, num_bytes=0)
    assert values["bound_bits_per_byte"] is values["baseline_bits_per_byte"] is None
    assert values["bound_nats_per_token"] == pytest.approx(2)


def test_a_perplexity_beyond_all_numbers_is_said():
    with pytest.raises(PipelineError, match=r"the bound is 20000 nats a token, whose perplexity"):
        one_text(1e5)
