"""Labels and guidance: laws on the toy, the bound given labels, what training leaves out."""

import pytest
import torch
from chains import NUM, draw, transformer
from corrected import corrected_law
from labelled import LABELS, SHARES, exact, labelled, mixture, texts_of, tilted
from toy import all_states, check_law, follows_law, index_of, total_variation

from pipeline.methods.samplers import Conditioning, Stepping
from pipeline.methods.sedd.bound import draw_bound
from pipeline.methods.sedd.draw import CHUNK
from pipeline.methods.sedd.loss import ScoreEntropy, left_out
from pipeline.methods.sedd.sampler import resolve

CAP = {"corrector": "cap", "eta": 0.3}
graphs = pytest.mark.parametrize("graph", ["absorb", "uniform"])


def asked(kind="b", w=1.0):
    return {"conditioning": Conditioning({"kind": kind}, w)}


@graphs
def test_guidance_1_is_the_conditional_model_and_0_the_unconditional_to_the_token(graph):
    model = labelled(graph)
    for w, p0 in ((1.0, texts_of("b")), (0.0, mixture())):
        samples, alone = (
            draw(each, 3, "auto", num=500, **how)
            for each, how in ((model, asked(w=w)), (exact(p0, graph), {}))
        )
        assert torch.equal(samples.tokens, alone.tokens)
        assert torch.equal(samples.nfe, alone.nfe)
        assert samples.calls == alone.calls
    assert torch.equal(draw(model, 3, "auto", num=500).tokens, samples.tokens)


@pytest.mark.parametrize("w", [1.0, 2.0])
def test_first_hitting_given_a_label_follows_its_texts_and_guided_ones_another_law(w):
    drawn = index_of(draw(labelled(), 1, "first_hitting", **asked(w=w)).tokens, 3)
    assert follows_law(drawn, texts_of("b").flatten()) == (w == 1)
    assert not follows_law(drawn, mixture().flatten())


@pytest.mark.parametrize(
    ("graph", "predictor", "stepping"),
    [
        ("absorb", "cached", {}),
        ("absorb", "analytic", {}),
        ("absorb", "cached", CAP),
        ("uniform", "analytic", {}),
        ("uniform", "analytic", CAP),
    ],
)
@pytest.mark.parametrize("w", [0.3, 2.0])
def test_guided_samples_follow_the_tilted_law_of_their_chain(graph, predictor, stepping, w):
    stepping = Stepping(**stepping)
    samples = draw(labelled(graph), 3, predictor, stepping=stepping, **asked(w=w))
    law, *others = (
        corrected_law(tilted("b", each, graph), 3, stepping) for each in (w, w + 1, 1 - w)
    )
    drawn = index_of(samples.tokens, 3)
    check_law(drawn, law)
    # What a weight off by one, or the two of them swapped, would draw from.
    for other in others:
        assert total_variation(law, other) > 0.05
        assert not follows_law(drawn, other)


def test_order_and_fixed_tokens_go_with_guidance():
    fixed = torch.tensor([-1, 2, -1])
    how = {"stepping": Stepping(order="confidence"), "fixed": fixed}
    samples = draw(labelled(), 2, "auto", num=500, **how, **asked(w=1.0))
    alone = draw(exact(texts_of("b")), 2, "auto", num=500, **how)
    assert torch.equal(samples.tokens, alone.tokens)
    assert bool((samples.tokens[:, 1] == 2).all())


@graphs
@pytest.mark.parametrize("w", [0.0, 0.5, 1.0])
def test_nfe_counts_both_evaluations(graph, w):
    model = transformer(graph=graph, labels=LABELS)
    rows, given = [], model.network.hidden_given

    def counted(labels, xt, sigma=None, at=None):
        rows.append(len(xt))
        return given(labels, xt, sigma, at)

    model.network.hidden_given = counted
    samples = draw(model, 5, "analytic", num=1, **asked(w=w))
    assert samples.nfe.item() == samples.calls == len(rows)
    assert samples.nfe.item() == draw(model, 5, "analytic", num=1).nfe.item() * (1 + (w == 0.5))


@graphs
def test_a_network_hears_its_labels_and_what_is_not_said_adds_nothing(graph):
    model = transformer(graph=graph, labels=LABELS)
    for embedding in model.network.label_embeds:
        with torch.no_grad():
            embedding.weight[0] = 0
    xt, sigma = torch.randint(7, (3, 8)), torch.tensor([0.5, 1.0, 2.0]).double()

    def outputs(labels):
        with model.network.labelled(None if labels is None else torch.tensor(labels)):
            return model.network(xt, sigma)

    plain = outputs(None)
    assert torch.equal(outputs([[0, 0]]), plain)
    assert torch.equal(outputs([[1, 0], [0, 0], [2, 1]])[1], plain[1])
    rows = [[1, 0], [2, 0], [0, 1], [1, 1]]
    answers = [plain, *(outputs([row]) for row in rows)]
    for place, answer in enumerate(answers):
        assert all((answer - other).abs().max() > 1e-3 for other in answers[:place])
    by_row = outputs([[1, 0], [2, 0], [0, 1]])
    for row in range(3):
        torch.testing.assert_close(by_row[row], answers[1 + row][row])


def test_the_bound_given_labels_is_the_exact_conditional_likelihood_of_the_exact_model():
    model, x0 = labelled(length=2), all_states(3, 2)
    options = {"num_replicates": 100, "num_draws": 2, "batch_size": 64}

    def bound(texts, labels=None):
        return draw_bound(model, texts, seed=0, labels=labels, **options).total

    kinds = torch.tensor([1, 2]).repeat_interleave(len(x0))
    labels = torch.stack([kinds, torch.zeros_like(kinds)], 1)
    nats = bound(x0.repeat(2, 1), labels)
    exact_nats = -torch.cat([texts_of(kind, 2).flatten() for kind in SHARES]).log()
    error = nats.std(0) / len(nats) ** 0.5
    assert bool(((nats.mean(0) - exact_nats).abs() < 5 * error + 1e-9).all())
    # Of no label said it is that without labels, draw by draw.
    without = bound(x0)
    assert torch.equal(bound(x0, torch.zeros_like(x0)), without)
    assert (without.mean(0) - -mixture(2).flatten().log()).abs().max() < 5 * error.max()
    assert (exact_nats[:9] + mixture(2).flatten().log()).abs().max() > 0.3


def test_the_bound_given_labels_and_known_positions_is_that_of_the_others_given_both():
    model, x0 = labelled(length=2), all_states(3, 2)
    kinds = torch.tensor([1, 2]).repeat_interleave(len(x0))
    nats = draw_bound(
        *(model, x0.repeat(2, 1)),
        labels=torch.stack([kinds, torch.zeros_like(kinds)], 1),
        known=torch.tensor([True, False]).expand(2 * len(x0), -1),
        seed=0,
        **{"num_replicates": 1, "num_draws": 2, "batch_size": 5},
    ).total[0]
    given = [p0 / p0.sum(1, keepdim=True) for p0 in (texts_of(kind, 2) for kind in SHARES)]
    # A single position is always the masked one, so that nothing is left to chance.
    torch.testing.assert_close(nats, -torch.stack(given).flatten().log())


@graphs
def test_each_text_is_bounded_given_its_own_labels_however_few_go_at_once(graph, monkeypatch):
    model = transformer(graph=graph, labels=LABELS, t_min=0.1)
    x0 = torch.randint(7, (6, 8), generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[1, 0], [2, 0], [0, 1]] * 2)
    options = {"num_replicates": 1, "num_draws": 2, "batch_size": 4}

    def nats(labels):
        return draw_bound(model, x0, seed=0, labels=labels, **options).total[0]

    by_row = nats(labels)
    for row, alone in enumerate(labels):
        torch.testing.assert_close(by_row[row], nats(alone.expand(6, 2))[row])
    monkeypatch.setitem(CHUNK, "cpu", 1)
    torch.testing.assert_close(by_row, nats(labels))
    assert (by_row - nats(None)).abs().min() > 1e-3


def test_label_dropout_leaves_out_all_labels_of_its_share_of_rows_and_each_of_the_others():
    labels = torch.ones(200_000, 2, dtype=torch.int64)
    kept = left_out(labels, 0.15, torch.Generator().manual_seed(0))
    for pair, share in {(0, 0): 0.15 + 0.85 * 0.15**2, (1, 0): 0.85**2 * 0.15}.items():
        found = (kept == torch.tensor(pair)).all(-1).double().mean().item()
        assert found == pytest.approx(share, abs=5 * (share / len(labels)) ** 0.5)
    assert torch.equal(left_out(labels, 0.0, torch.Generator()), labels)


@graphs
def test_training_draws_rows_as_without_labels_and_teaches_what_is_said(graph):
    model = transformer(graph=graph, labels=LABELS, label_dropout=0.5).float()
    plain = transformer(graph=graph).float()
    tokens = torch.randint(7, (64, 8), generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[1, 1], [2, 0]]).repeat(32, 1)
    drawn = ScoreEntropy(model).draw(torch.cat([labels, tokens], 1), torch.Generator())
    alone = ScoreEntropy(plain).draw(tokens, torch.Generator())
    assert all(torch.equal(a, b) for a, b in zip(drawn, alone, strict=False))
    kept = drawn[3]
    assert bool(((kept == labels) | (kept == 0)).all())
    objective = ScoreEntropy(model)
    objective.loss(*objective.located(*drawn)).backward()
    kind, side = (embedding.weight.grad for embedding in model.network.label_embeds)
    assert bool((kind[0] == 0).all() and (side[0] == 0).all())
    assert bool(kind[1:].abs().amax(-1).min() > 0 and side[1].abs().max() > 0)
    torch.testing.assert_close(objective.loss(*drawn), objective.loss(*objective.located(*drawn)))


def test_new_labels_say_nothing_yet():
    torch.manual_seed(0)
    model = transformer(labels=LABELS)
    fresh = type(model)(model.config)
    assert all(bool((each.weight == 0).all()) for each in fresh.network.label_embeds)


@pytest.mark.parametrize(
    ("labels", "w", "message"),
    [
        (
            {"kind": "c", "year": "1990"},
            -1.0,
            ["kind must be a or b", "of kind or side", "least 0"],
        ),
        ({}, 2.0, ["guidance must be 1 where no label is asked for"]),
    ],
)
def test_what_the_model_does_not_know_is_refused_all_at_once(labels, w, message):
    with pytest.raises(ValueError, match=".*".join(message)):
        resolve(labelled(), "auto", conditioning=Conditioning(labels, w))


def test_a_model_without_labels_refuses_them_in_one_message():
    with pytest.raises(ValueError, match=r"trained with data.labels.*\(got kind=a, guidance 2\)$"):
        draw(exact(mixture()), 3, "auto", num=NUM, **asked("a", 2.0))
