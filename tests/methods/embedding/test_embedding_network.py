"""What the network is told, and what it makes of it."""

import math

import pytest
import torch
import torch.nn.functional as F
from embedding_toy import embedding_config, free, random_model, seeded

from pipeline.kernels.precision import products_in
from pipeline.methods.embedding.clock import Clock
from pipeline.methods.embedding.model import EmbeddingDiffusion
from pipeline.methods.embedding.vectors import by_row

ROWS, G = 6, torch.linspace(-4.5, 5.5, 6, dtype=torch.float64)
both_inputs = pytest.mark.parametrize("input", ["evidence", "vector"])
both_norms = pytest.mark.parametrize("norm", ["l2", "layernorm"])


def numbers(model, seed=0):
    """z, or an estimate [ROWS, L, d]."""
    shape = ROWS, model.length, model.config.dim
    return torch.randn(shape, generator=seeded(seed)).to(next(model.parameters()))


def ids_of(model):
    return torch.randint(model.config.vocab_size, (ROWS, model.length), generator=seeded())


@torch.no_grad()
@both_inputs
@both_norms
def test_a_head_of_zeros_gives_the_posterior_under_a_uniform_prior(input, norm):
    torch.manual_seed(0)
    model = EmbeddingDiffusion(embedding_config(input=input, norm=norm)).eval()
    z, ids, vectors = numbers(model), ids_of(model), model.network.vectors()
    found = model.expect(z, G, free(*ids.shape), ids)
    evidence = (by_row(model.level(G).evidence, z) * z) @ vectors.T
    torch.testing.assert_close(found.mean, evidence.softmax(-1) @ vectors, rtol=1e-4, atol=1e-5)
    nats = -evidence.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
    torch.testing.assert_close(found.nats, nats, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@both_inputs
@both_norms
def test_an_expectation_is_of_the_logits_that_samplers_draw_from(input, norm):
    """In products of float32; those of bfloat16 do not round logits, but what is expected."""
    model = random_model(input=input, norm=norm)
    z, ids, level = numbers(model), ids_of(model), model.level(G)
    hidden = model.network.hidden(z, G, free(*ids.shape))
    found = model.network.expect(hidden, z, G, ids)
    evidence = by_row(level.evidence, z) * z
    logits = model.network.logits(hidden.flatten(0, 1), evidence.flatten(0, 1))
    log_p = logits.view(*ids.shape, -1).log_softmax(-1)
    mean = log_p.exp() @ model.network.vectors()
    torch.testing.assert_close(found.mean, mean, rtol=1e-4, atol=1e-5)
    nats = -log_p.gather(-1, ids[..., None]).squeeze(-1)
    torch.testing.assert_close(found.nats, nats, rtol=1e-4, atol=1e-4)
    with products_in("bfloat16", torch.device("cpu")):
        narrow = model.network.logits(hidden.flatten(0, 1), evidence.flatten(0, 1))
        near = model.network.expect(hidden, z, G, ids)
    assert torch.equal(narrow, logits)
    assert not torch.equal(near.mean, found.mean)
    torch.testing.assert_close(near.mean, found.mean, rtol=0.1, atol=0.1)


@torch.no_grad()
@both_inputs
def test_evidence_alone_is_told_of_z_and_its_level_or_both_are(input):
    """z and z' of the same alpha / sigma^2 z are one for the input `evidence`."""
    model = random_model(input=input).double()
    z, known, other = numbers(model), free(ROWS, model.length), G.flip(0)
    ratio = model.level(G).evidence / model.level(other).evidence
    found = [
        model.network.hidden(*each, known) for each in ((z, G), (ratio[:, None, None] * z, other))
    ]
    assert torch.allclose(*found, rtol=1e-9, atol=1e-9) == (input == "evidence")
    assert not torch.allclose(model.network.hidden(z, other, known), found[0], atol=1e-3)
    assert not torch.allclose(model.network.hidden(-z, G, known), found[0], atol=1e-3)


@torch.no_grad()
def test_an_input_of_evidence_is_the_mean_of_its_table_under_it():
    model = random_model().double()
    z, known, level = numbers(model), free(ROWS, model.length), model.level(G)
    known[:, 1] = 3
    vectors, table = model.network.vectors(), model.network.input.vocab_embed.embedding
    p = ((by_row(level.evidence, z) * z) @ vectors.T).softmax(-1)
    p[:, 1] = F.one_hot(torch.tensor(3), 7).double()
    torch.testing.assert_close(model.network.input(z, level, known, vectors), p @ table)


@torch.no_grad()
@both_inputs
def test_a_known_token_counts_and_what_stands_in_its_place_does_not(input):
    model = random_model(input=input)
    z, estimate, known = numbers(model), numbers(model, 1), free(ROWS, model.length)
    known[:, [0, 3]] = 2
    changed_z, changed_estimate = z.clone(), estimate.clone()
    for each in changed_z, changed_estimate:
        each[:, [0, 3]] = 100.0
    hidden = model.network.hidden
    found = hidden(z, G, known, estimate)
    assert torch.equal(hidden(changed_z, G, known, changed_estimate), found)
    assert not torch.allclose(hidden(z, G, known, changed_z), found, atol=1e-3)
    for other in known.clone(), known.clone():
        other[:, 3] = 4
        assert not torch.allclose(hidden(z, G, other, estimate), found, atol=1e-3)
    assert not torch.allclose(hidden(z, G, free(*known.shape), estimate), found, atol=1e-3)


@torch.no_grad()
def test_a_known_token_is_told_as_its_vector_and_a_mark():
    model = random_model(input="vector").double()
    network, known = model.network, free(ROWS, model.length)
    known[:, 0], z = 5, numbers(model)
    told = network.input(z, model.level(G), known, network.vectors())
    maps = network.input.vector_map, network.input.known_map
    torch.testing.assert_close(told[:, 1:], maps[0](z[:, 1:]))
    torch.testing.assert_close(told[:, 0], maps[1](network.vectors()[5]).expand(ROWS, -1))
    assert maps[1].bias.abs().min() > 0


@torch.no_grad()
@both_inputs
def test_an_estimate_of_zeros_is_none(input):
    """To the bit, and another changes its own row alone."""
    model = random_model(input=input)
    z, known, estimate = numbers(model), free(ROWS, model.length), numbers(model, 1)
    none = model.network.hidden(z, G, known)
    assert torch.equal(model.network.hidden(z, G, known, torch.zeros_like(z)), none)
    estimate[1:] = 0
    found = model.network.hidden(z, G, known, estimate)
    assert torch.equal(found[1:], none[1:])
    assert not torch.allclose(found[0], none[0], atol=1e-3)


@torch.no_grad()
@both_inputs
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_what_z_alone_says_takes_two_passes_with_self_conditioning_and_one_without(input, share):
    model = random_model(input=input, self_condition=share)
    z, known, ids = numbers(model), free(ROWS, model.length), ids_of(model)
    known[:, 2] = 1
    network = model.network
    first = network.expect(network.hidden(z, G, known), z, G, ids)
    second = network.expect(network.hidden(z, G, known, first.mean), z, G, ids)
    found = model.expect(z, G, known, ids)
    assert torch.equal(found.mean, second.mean if share else first.mean)
    assert torch.equal(found.nats, second.nats if share else first.nats)
    assert torch.equal(first.mean, second.mean) == (share == 0)


@torch.no_grad()
@both_inputs
def test_blocks_are_given_the_sum_of_input_estimate_and_position_and_the_level_if_needed(input):
    """A shorter text has the first positions."""
    model, given = random_model(input=input), []
    network = model.network
    network.through = lambda x, cond, at: (given.append((x, cond)), x)[1]
    z, estimate, known = numbers(model)[:, :3], numbers(model, 1)[:, :3], free(ROWS, 3)
    known[:, 1] = 2
    network.hidden(z, G, known, estimate)
    ((x, cond),) = given
    wanted = network.input(z, model.level(G), known, network.vectors())
    wanted = wanted + network.position_embed.embedding[:3]
    wanted[:, [0, 2]] += estimate[:, [0, 2]] @ network.estimate_map.weight.T
    torch.testing.assert_close(x, wanted)
    assert (cond is None) == (input == "evidence")
    if cond is not None:
        torch.testing.assert_close(cond, F.silu(network.level_map(G.float())))


@torch.no_grad()
@both_inputs
def test_a_new_network_makes_nothing_of_estimates_and_of_the_vectors_of_known_tokens(input):
    torch.manual_seed(0)
    model = EmbeddingDiffusion(embedding_config(input=input)).eval()
    z, known = numbers(model), free(ROWS, model.length)
    known[:, 1] = 2
    found = model.network.hidden(z, G, known)
    assert torch.equal(model.network.hidden(z, G, known, numbers(model, 1)), found)
    known[:, 1] = 4
    assert torch.equal(model.network.hidden(z, G, known), found) == (input == "vector")


@torch.no_grad()
def test_positions_are_told_apart():
    model = random_model()
    z = numbers(model)[:, :1].expand(-1, model.length, -1)
    hidden = model.network.hidden(z, G, free(ROWS, model.length))
    assert (hidden[:, 1:] - hidden[:, :1]).abs().amax((0, 2)).min() > 0.01


@pytest.mark.parametrize("kind", ["decoding", "cosine"])
def test_a_model_has_the_clock_of_its_vocabulary_and_vectors(kind):
    model = random_model(clock=kind, vocab_size=55, dim=8, g_min=-4.0, g_max=3.0)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.equal(model.clock.g(t), Clock(kind, -4.0, 3.0, 55, 8).g(t))


@torch.no_grad()
def test_dropout_is_of_training_alone():
    model = random_model(dropout=0.5)
    z, known = numbers(model), free(ROWS, model.length)
    evaluated, trained = (
        [model.train(mode).network.hidden(z, G, known) for _ in range(2)] for mode in (False, True)
    )
    assert torch.equal(*evaluated)
    assert not torch.allclose(*trained)


@torch.no_grad()
@both_inputs
@pytest.mark.parametrize("ends", [(-5.0, 6.0), (-40.0, 40.0)])
def test_float32_is_near_float64_at_the_ends(input, ends):
    model = random_model(input=input)
    z, ids, g = numbers(model), ids_of(model), torch.tensor(ends, dtype=torch.float64)
    z, ids = z[:2], ids[:2]
    narrow = model.expect(z, g, free(*ids.shape), ids)
    wide = model.double().expect(z.double(), g, free(*ids.shape), ids)
    assert narrow.nats.isfinite().all()
    torch.testing.assert_close(narrow.mean.double(), wide.mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(narrow.nats.double(), wide.nats, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 1}, "vocab_size, and dim with layernorm, must be at least 2"),
        ({"norm": "layernorm", "dim": 1}, "dim with layernorm"),
        ({"dim": 0, "length": 0}, r"length must lie in 1\.\.\d+ .got 0.; dim must lie"),
        ({"width": 18, "num_heads": 4}, "must divide width"),
        ({"cond_dim": 8}, r"input vector \(got 8\)"),
        ({"input": "vector", "cond_dim": None}, r"input vector \(got None\)"),
        ({"g_min": 6.0}, r"g_min must be less than g_max.*\(got 6\.0 and 6\.0\)"),
        ({"g_max": math.inf}, r"within -40\.\.40"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"known": -0.1, "self_condition": math.nan}, r"self_condition .*nan.*; known .*-0\.1"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        embedding_config(**changes)
