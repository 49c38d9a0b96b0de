"""The bound of a text some of whose positions are known, against what enumeration gives."""

import math

import pytest
import torch
from enumeration import clean_states
from toy import all_states, exact_model, small_model

from pipeline.methods.sedd.bound import draw_bound, draw_integral
from pipeline.methods.sedd.loss import masked_cross_entropy


def first_known(x0):
    known = torch.zeros_like(x0, dtype=torch.bool)
    known[:, 0] = True
    return known


def drawn_bound(model, x0, *, num_replicates=32, batch_size=1000):
    return draw_bound(
        model,
        x0,
        num_replicates=num_replicates,
        num_draws=4,
        batch_size=batch_size,
        seed=0,
        known=first_known(x0),
    )


def check(drawn, exact):
    """Each text's mean, and that over texts, within 4 standard errors of replicates [32, N]."""
    for values, wanted in ((drawn, exact), (drawn.mean(-1, keepdim=True), exact.mean()[None])):
        stderr = values.std(0) / math.sqrt(len(values))
        assert ((values.mean(0) - wanted).abs() < 4 * stderr + 1e-9).all()
    assert stderr < 0.01 * exact.mean()


def test_of_the_exact_conditional_it_is_minus_the_log_of_the_others_given_the_known():
    model, p0 = exact_model("absorb", "conditional", length=3)
    x0 = clean_states(model).repeat(20, 1)
    exact = -(p0 / p0.sum((1, 2), keepdim=True)).flatten().log()
    drawn = drawn_bound(model, x0).total
    check(drawn.view(32, 20, -1).mean(1), exact)


@torch.no_grad()
def test_of_any_conditional_model_its_integral_is_the_mean_over_all_sets_of_masks():
    """Of two free positions: none or one or both masked, with chance m the integral over m."""
    model = small_model(parameterization="conditional")
    x0 = torch.randint(11, (6, 3), generator=torch.Generator().manual_seed(0))
    exact = torch.zeros(len(x0), dtype=torch.float64)
    for masks in all_states(2, 2)[1:].bool():
        xt = x0.clone()
        xt[:, 1:][:, masks] = model.graph.num_states - 1
        weighted = masked_cross_entropy(model, x0, xt).positions.sum(-1)
        num = int(masks.sum())
        # Without the loss's own weight; then the integral of m^(k - 1) (1 - m)^(2 - k).
        plain = weighted / ((x0.shape[1] + 1) / num)
        exact += plain * math.factorial(num - 1) * math.factorial(2 - num) / math.factorial(2)
    drawn = drawn_bound(model, x0.repeat(20, 1), batch_size=120)
    check(drawn.integral.view(32, 20, -1).mean(1), exact)
    assert drawn.prior.eq(0).all()
    assert drawn.reconstruction.eq(0).all()


@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_known_positions_are_never_noised(parameterization, monkeypatch):
    model, seen = small_model(parameterization=parameterization), []
    hidden = model.network.hidden
    monkeypatch.setattr(
        model.network, "hidden", lambda xt, *a, **k: (seen.append(xt), hidden(xt, *a, **k))[1]
    )
    x0 = torch.randint(11, (6, 9), generator=torch.Generator().manual_seed(1))
    drawn_bound(model, x0, num_replicates=2)
    assert len(seen) >= 8
    for xt in seen:
        assert not (xt[:, 0] == model.graph.mask_id).any()


def test_no_known_position_and_none_at_all_are_the_same():
    model = small_model()
    x0 = torch.randint(11, (6, 9), generator=torch.Generator().manual_seed(1))
    t = torch.full((6,), 0.6, dtype=torch.float64)
    u = torch.rand(x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    none = torch.zeros_like(x0, dtype=torch.bool)
    with torch.no_grad():
        free, known = (draw_integral(model, x0, t, u, torch.Generator(), at) for at in (None, none))
    assert torch.equal(free, known)


def test_the_prior_of_a_raw_score_is_of_the_free_positions():
    model = small_model()
    x0 = torch.zeros(2, 9, dtype=torch.int64)
    of_all = draw_bound(
        model,
        x0,
        num_replicates=1,
        num_draws=2,
        batch_size=2,
        seed=0,
    )
    torch.testing.assert_close(drawn_bound(model, x0, num_replicates=1).prior, of_all.prior * 8 / 9)
    assert of_all.t_min == model.t_min


def test_the_uniform_graph_is_refused():
    with pytest.raises(ValueError, match="uniform graph"):
        drawn_bound(small_model("uniform"), torch.zeros(2, 3, dtype=torch.int64))
