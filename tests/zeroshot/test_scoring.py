"""A protocol's figures against what enumeration gives, and their units by hand."""

import math

import numpy as np
import pytest
import torch
from toy import all_states, exact_model, small_model

from pipeline.errors import ParamsError, PipelineError
from pipeline.methods.estimates import Bound
from pipeline.zeroshot.blocks import cut
from pipeline.zeroshot.protocols import PROTOCOLS
from pipeline.zeroshot.scoring import Draws, counted, counts, draw_bound, figures

DRAWS = Draws(num_replicates=64, num_draws=2, batch_size=50, seed=0)
FEW_DRAWS = Draws(num_replicates=32, num_draws=2, batch_size=50, seed=0)


def scored(model, blocks, name, draws=DRAWS, byte_lengths=None):
    protocol = PROTOCOLS[name]
    count = counts(blocks, protocol, byte_lengths or [0] + [1] * (model.config.vocab_size - 1))
    bound = draw_bound(model, blocks, protocol, draws)
    return figures(sum(counted(bound, protocol).values()), count), count


def some_blocks(name, length, vocab_size=3, num=30):
    generator = torch.Generator().manual_seed(0)
    documents = torch.randint(vocab_size, (num, 2), generator=generator).tolist()
    return cut(documents, PROTOCOLS[name], length=length, eos_id=0, workers=1)


@pytest.mark.parametrize(("name", "num_scored"), [("mdlm", 3), ("bd3lm", 2)])
def test_of_the_exact_conditional_model_the_figure_is_the_enumerated_likelihood(name, num_scored):
    """Given the first token under `bd3lm`, which alone does not count it."""
    model, p0 = exact_model("absorb", "conditional", length=3)
    blocks = some_blocks(name, 3)
    shown = p0.sum((1, 2), keepdim=True) if name == "bd3lm" else torch.ones(1, 1, 1)
    nats = -(p0 / shown)[tuple(torch.from_numpy(blocks.whole).long().T)].log()
    found, count = scored(model, blocks, name)
    assert count.tokens.tolist() == [num_scored] * len(blocks)
    exact = nats.mean().item() / num_scored
    assert found["nats_per_token"] == pytest.approx(exact, abs=4 * found["mc_stderr"])
    assert 0 < found["mc_stderr"] < 0.05
    assert found["perplexity_per_token"] == pytest.approx(math.exp(found["nats_per_token"]))


@pytest.mark.parametrize(("name", "length"), [("sedd", 2), ("bd3lm", 3)])
def test_of_the_exact_raw_score_the_figure_is_the_enumerated_integral(name, length):
    """Where noise begins late and ends early, so that each protocol's terms are told apart.

    Of the exact score the integrand is a cross-entropy, over the chance m that a token is a mask.
    """
    eps, t_min = 0.1, 0.2
    model, p0 = exact_model("absorb", "raw", t_min=t_min, eps=eps, length=length)
    blocks = some_blocks(name, length, num=20)
    first = PROTOCOLS[name].num_known
    num_free = length - first
    x0 = torch.from_numpy(blocks.whole).long()
    ends = (1 - eps) * torch.tensor([t_min, 1.0], dtype=torch.float64)
    integral = torch.zeros(len(x0), dtype=torch.float64)
    for masks in all_states(2, num_free)[1:].bool():
        masks = torch.cat([masks.new_zeros(first), masks])
        num = int(masks.sum())
        power, rest = np.polynomial.Polynomial([0, 1]), np.polynomial.Polynomial([1, -1])
        weight = (power ** (num - 1) * rest ** (num_free - num)).integ()
        cross_entropy = sum(
            -conditional(p0, x0, place, masks).log() for place in masks.nonzero().flatten().tolist()
        )
        integral += cross_entropy * float(weight(ends[1].item()) - weight(ends[0].item()))
    exact = integral.mean().item() / (1 - t_min)
    if name == "sedd":
        exact += length * eps * math.log(3)  # what survives, over the tokens
    found, _ = scored(model, blocks, name, FEW_DRAWS)
    assert found["nats_per_token"] == pytest.approx(exact / num_free, abs=4 * found["mc_stderr"])
    assert 0 < found["mc_stderr"] < 0.05


def conditional(p0, x0, place, masks):
    """The chance [N] of the token at a place given those that are no masks."""
    masked = masks.nonzero().flatten().tolist()
    others = [each for each in masked if each != place]
    known = p0.sum(others, keepdim=True) if others else p0
    chance = known / known.sum(place, keepdim=True)
    return chance.expand_as(p0)[tuple(x0.T)]


def test_terms_by_hand():
    one = torch.ones(2, 3, dtype=torch.float64)
    raw = Bound(0.9 * one, 2 * one[0], 3 * one, t_min=0.1)
    totals = {name: sum(counted(raw, p).values()).unique().item() for name, p in PROTOCOLS.items()}
    assert totals == pytest.approx({"exact": 5.9, "sedd": 3, "mdlm": 1, "duo": 1, "bd3lm": 1})
    others = Bound(0.9 * one, 2 * one[0], 3 * one)
    for protocol in PROTOCOLS.values():
        assert sum(counted(others, protocol).values()).unique().item() == pytest.approx(5.9)


def test_units_by_hand():
    nats = torch.tensor([[2.0, 4.0], [4.0, 6.0]], dtype=torch.float64)
    protocol = PROTOCOLS["bd3lm"]
    blocks = cut([[5, 6], [7, 8]], protocol, length=4, eos_id=0, workers=1)
    count = counts(blocks, protocol, [0, 0, 0, 0, 0, 2, 1, 1, 3])
    assert (count.tokens.tolist(), count.bytes.tolist()) == ([3, 3], [3, 4])
    found = figures(nats, count)
    assert found["nats_per_token"] == pytest.approx(8 / 6)
    assert found["bits_per_byte"] == pytest.approx(8 / math.log(2) / 7)
    assert found["mc_stderr"] == pytest.approx((10 / 6 - 6 / 6) / 2)
    assert found["data_stderr"] == pytest.approx(math.sqrt(2) * math.sqrt(2) / 6)
    both = math.hypot(found["mc_stderr"], found["data_stderr"])
    assert found["nats_per_token_stderr"] == pytest.approx(both)
    assert found["perplexity_per_token_stderr"] == pytest.approx(both * math.exp(8 / 6))


@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_a_shorter_block_is_scored_as_it_would_be_alone(parameterization):
    model = small_model(parameterization=parameterization)
    protocol = PROTOCOLS["exact"]
    blocks = cut([[1, 2, 3], [4], [5, 6, 7]], protocol, length=4, eos_id=0, workers=1)
    assert (blocks.whole.shape, blocks.tail.tolist()) == ((2, 4), [7, 0])
    draws = Draws(num_replicates=16, num_draws=4, batch_size=8, seed=1)
    together = draw_bound(model, blocks, protocol, draws)
    alone = cut([[7]], protocol, length=4, eos_id=0, workers=1)
    lone = draw_bound(model, alone, protocol, draws)
    assert together.integral.shape == (16, 3)
    last = together.total[:, -1]
    stderr = math.hypot(last.std().item(), lone.total.std().item()) / 4
    assert last.mean().item() == pytest.approx(lone.total.mean().item(), abs=4 * stderr)
    assert counts(blocks, protocol, [0] * 11).tokens.tolist() == [4, 4, 2]


def test_the_uniform_graph_cannot_be_shown_a_token():
    with pytest.raises(ParamsError, match="shows the first token"):
        scored(small_model("uniform"), some_blocks("bd3lm", 4), "bd3lm")


def test_no_figure_is_beyond_all_numbers():
    zero = torch.zeros(2, 1, dtype=torch.float64)
    with pytest.raises(PipelineError, match="the bound is infinite for some blocks"):
        counted(Bound(zero, zero[0], zero + torch.inf), PROTOCOLS["exact"])
    blocks = cut([[1]], PROTOCOLS["exact"], length=4, eos_id=0, workers=1)
    found = figures(zero + 5000, counts(blocks, PROTOCOLS["exact"], [0, 1]))
    assert found["nats_per_token"] == 2500
    assert found["perplexity_per_token"] is found["perplexity_per_token_stderr"] is None
