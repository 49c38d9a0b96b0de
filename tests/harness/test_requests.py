"""What lm-evaluation-harness asks: likelihoods by enumeration, windows, greedy answers, draws."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from toy import ExactNetwork, small_model, toy_config, toy_distribution

from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import DataError, ParamsError
from pipeline.harness.requests import Answering, windows_of
from pipeline.methods.sedd.model import SEDD


def answering(model, num_draws=512, tokenizer=None):
    return Answering(
        model, tokenizer, "float32",
        num_draws=num_draws, num_steps=8, batch_size=64, seed=0,
    )  # fmt: skip


def exact_model(p0, parameterization="conditional"):
    """The conditionals, or the score, of a distribution p0 [V] * L."""
    config = toy_config("absorb", parameterization, vocab_size=len(p0), length=p0.dim())
    model = SEDD(config)
    model.network = ExactNetwork(model, p0)
    return model.eval()


def conditional(p0, text, num_given):
    """p(the rest of text | its first), from the table."""
    return (p0[tuple(text)] / p0[tuple(text[:num_given])].sum()).item()


@pytest.mark.parametrize("num_given", [1, 2, 3])
def test_an_exact_models_likelihoods_are_those_of_the_target_given_the_context(num_given):
    """For every target after a context: were any of the context masked, or a mean taken, not so."""
    p0 = toy_distribution(3, 4)
    context = [1, 0, 2][:num_given]
    targets = list(itertools.product(range(3), repeat=4 - num_given))
    texts = [([*context, *target], num_given) for target in targets]
    found = answering(exact_model(p0)).log_likelihoods(texts)
    expected = [math.log(conditional(p0, *text)) for text in texts]
    gaps = torch.tensor(found) - torch.tensor(expected)
    assert gaps.mean().item() == pytest.approx(0, abs=0.03)
    assert gaps.abs().max() < 0.25
    assert sum(map(math.exp, found)) == pytest.approx(1, abs=0.03)


@pytest.mark.slow
def test_an_exact_scores_likelihoods_are_those_of_the_target_too():
    """Every term of it: what is left at the smallest noise, and the prior's."""
    p0 = toy_distribution(3, 2)
    texts = [([2, token], 1) for token in range(3)]
    # Many of each: a draw near the text is rare, and costs much.
    found = answering(exact_model(p0, "raw"), num_draws=128).log_likelihoods(texts * 64)
    expected = [math.log(conditional(p0, *text)) for text in texts]
    assert torch.tensor(found).view(64, 3).mean(0).tolist() == pytest.approx(expected, abs=0.1)


def test_an_inexact_models_likelihood_is_the_mean_over_counts_of_masks_and_their_places():
    """Sum over k of 1 / k times the mean, over sets of k masks, of their cross-entropies."""
    model = small_model("absorb", "conditional")
    ids, num_given = [1, 4, 2, 7, 3, 9], 3
    places = range(num_given, len(ids))
    nats = 0.0
    for k in range(1, len(places) + 1):
        sets = list(itertools.combinations(places, k))
        for masked in sets:
            xt = torch.tensor([ids])
            xt[0, list(masked)] = model.graph.mask_id
            with torch.no_grad():
                log_p = model.log_score(xt, torch.ones(1))[0, :, :11].log_softmax(-1).double()
            nats -= sum(log_p[at, ids[at]].item() for at in masked) / k / len(sets)
    found = answering(model, 256).log_likelihoods([(ids, num_given)] * 2)
    assert found == pytest.approx([-nats] * 2, rel=0.03)


def test_counts_of_masks_are_stratified_so_that_a_sure_cost_has_no_error():
    """Without any knowledge each token costs log V, whatever is masked."""
    p0 = torch.full((3,) * 4, 1 / 81, dtype=torch.float64)
    texts = [([0, 1, 2, 1], num) for num in (1, 2, 3)]
    found = answering(exact_model(p0), num_draws=2).log_likelihoods(texts)
    assert found == pytest.approx([-n * math.log(3) for n in (3, 2, 1)])


def test_of_one_token_the_likelihood_is_exact_at_the_fewest_draws():
    p0 = toy_distribution(3, 4)
    texts = [([1, 0, 2, token], 3) for token in range(3)]
    found = answering(exact_model(p0), num_draws=2).log_likelihoods(texts)
    assert sum(map(math.exp, found)) == pytest.approx(1, abs=1e-6)


def test_a_likelihood_is_a_sum_and_an_empty_target_is_certain():
    """Over two windows it is the sum of theirs, what stands before each being given."""
    p0 = toy_distribution(3, 3)
    found = answering(exact_model(p0)).log_likelihoods([([0, 1, 2, 1, 0], 1), ([0, 1, 2], 3)])
    windows = conditional(p0, [0, 1, 2], 1) * conditional(p0, [2, 1, 0], 1)
    assert found == pytest.approx([math.log(windows), 0.0], abs=0.05)


def test_a_model_that_cannot_be_given_a_context_is_refused():
    with pytest.raises(ParamsError, match="uniform graph: this is no conditioning"):
        answering(small_model("uniform"))


@pytest.mark.parametrize(
    ("num_ids", "num_given", "expected"),
    [
        (4, 1, [(0, 4, 3)]),
        (5, 3, [(1, 5, 2)]),
        (7, 1, [(0, 4, 3), (3, 7, 3)]),
        (10, 1, [(0, 4, 3), (4, 8, 4), (6, 10, 2)]),
        (9, 2, [(1, 5, 3), (5, 9, 4)]),
        (3, 3, []),
    ],
)
def test_windows_score_each_token_once_with_as_much_before_as_fits(num_ids, num_given, expected):
    ids = list(range(num_ids))
    found = windows_of(ids, num_given, 4)
    assert found == [(ids[start:end], num) for start, end, num in expected]
    assert [token for window, num in found for token in window[-num:]] == ids[num_given:]


def test_greedy_is_right_where_each_token_is_the_likeliest_given_the_context_alone():
    p0 = toy_distribution(3, 3)
    model = answering(exact_model(p0))
    for first in range(3):
        given = p0[first] / p0[first].sum()
        best = [given.sum(1).argmax().item(), given.sum(0).argmax().item()]
        texts = [([first, *pair], 1) for pair in itertools.product(range(3), repeat=2)]
        assert model.are_likeliest(texts) == [ids[1:] == best for ids, _ in texts]
    assert model.are_likeliest([([0, 1], 2)]) == [True]


@pytest.fixture
def names():
    return train_char_tokenizer(["Ada Ben"])


def test_blanks_between_context_and_target_are_the_targets(names):
    model = answering(small_model("absorb", "conditional"), tokenizer=names)
    eos, encoded = names.eos_id, names.encode("Ada Ben")
    for context, target in (("Ada", " Ben"), ("Ada ", "Ben")):
        assert model.split(context, target) == ([eos, *encoded], 4)
    assert model.split("", "Ada") == ([eos, *encoded[:3]], 1)
    with pytest.raises(DataError, match="the tokenizer does not know 'z'"):
        model.split("Ada", "z")


def test_a_model_of_text_without_ends_has_no_start_to_give():
    endless = SimpleNamespace(eos_id=None, encode_known=list)
    model = answering(small_model("absorb", "conditional"), tokenizer=endless)
    with pytest.raises(DataError, match=r"pack\.mode: stream"):
        model.split("Ada", "Ben")


def certain(names, text):
    """A model of one text alone: eos, its letters, eos."""
    ids = [names.eos_id, *names.encode(text), names.eos_id]
    p0 = torch.zeros((names.size,) * len(ids), dtype=torch.float64)
    p0[tuple(ids)] = 1.0
    return answering(exact_model(p0), tokenizer=names)


def test_a_continuation_ends_before_eos_and_before_the_first_stop():
    names = train_char_tokenizer(["Ab"])
    model = certain(names, "AbA")
    draw = model.generator()
    assert model.continuation("A", 3, [], draw) == "bA"
    assert model.continuation("A", 3, ["A", "b"], draw) == ""
    assert model.continuation("A", 3, ["A", ""], draw) == "b"
    for most in (0, 5):
        with pytest.raises(DataError, match=rf"max_gen_toks must be .* \(got {most}\)"):
            model.continuation("A", most, [], draw)
