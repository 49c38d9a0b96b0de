"""What goes with what: every mistake of a request is named, with what is allowed."""

import dataclasses
import typing

import pytest

from pipeline.methods.samplers import (
    ABILITIES,
    PLAIN,
    Conditioning,
    Corrector,
    Grid,
    Order,
    PredictorName,
    Stepping,
    each_combination,
    label_misuses,
    misuses,
)


def wrong(kind, predictor="auto", temperature=1.0, top_p=1.0, **stepping):
    return misuses(kind, "this", predictor, temperature, top_p, Stepping(**stepping), "sample.")


@pytest.mark.parametrize("kind", ABILITIES)
def test_what_a_model_can_do_is_not_refused(kind):
    can = ABILITIES[kind]
    for predictor in ("auto", *can.predictors):
        assert wrong(kind, predictor) == []
    for name in can.orders:
        assert wrong(kind, order=name) == []
    for name in can.correctors:
        assert wrong(kind, corrector=name, eta=1.0) == []
    for name in can.grids:
        assert wrong(kind, grid=name) == []
    assert bool(wrong(kind, temperature=0.5)) == (not can.sharpens)


@pytest.mark.parametrize(
    ("kind", "request_", "message"),
    [
        ("absorb raw", {"order": "margin"}, "order must be random with this (got margin)"),
        ("absorb raw", {"corrector": "cap"}, "corrector must be none with this (got cap)"),
        (
            "uniform raw",
            {"corrector": "rescale"},
            "corrector must be none, gibbs or low_confidence with this (got rescale)",
        ),
        ("uniform conditional", {"corrector": "conf"}, "forward_backward, gibbs or low_confidence"),
        ("uniform conditional", {"order": "confidence"}, "order must be random"),
        ("absorb conditional", {"corrector": "gibbs"}, "loop, forward_backward or conf with this"),
        ("uniform raw", {"temperature": 0.5}, "temperature must be 1 with this, which has no"),
        ("uniform raw", {"top_p": 0.5}, "top_p must be 1 with this, which has no"),
        ("embedding", {"grid": "cosine"}, "grid must be uniform with this (got cosine)"),
        ("embedding", {"corrector": "cap"}, "corrector must be none"),
        ("absorb conditional", {"eta": 0.0}, "eta must be above 0 and at most 1 (got 0.0)"),
        ("absorb conditional", {"eta": 1.1}, "eta must be above 0 and at most 1 (got 1.1)"),
        ("absorb conditional", {"eta": float("nan")}, "eta must be"),
        ("absorb conditional", {"hold": 1.0}, "hold must be above 0 and less than 1 (got 1.0)"),
        ("absorb conditional", {"gamma": -1.0}, "gamma must be a number of at least 0 (got -1.0)"),
        ("uniform raw", {"num_redrawn": 0}, "num_redrawn must be at least 1 (got 0)"),
        (
            "absorb conditional",
            {"corrector": "cap", "order": "margin"},
            "corrector must be none with sample.order margin",
        ),
        (
            "absorb conditional",
            {"corrector": "cap", "predictor": "first_hitting"},
            "predictor must be auto, analytic or cached with sample.corrector cap",
        ),
        (
            "absorb conditional",
            {"order": "margin", "predictor": "euler"},
            "predictor must be auto, analytic or cached with sample.order margin",
        ),
        (
            "absorb conditional",
            {"grid": "cosine", "predictor": "first_hitting"},
            "grid must be uniform with sample.predictor first_hitting",
        ),
        (
            "absorb conditional",
            {"grid": "cosine", "order": "entropy_bound"},
            "grid must be uniform with sample.order entropy_bound",
        ),
    ],
)
def test_what_makes_no_sense_is_named(kind, request_, message):
    (line,) = wrong(kind, **request_)
    assert line.startswith("sample.")
    assert message in line
    assert "(got " in line


def test_all_mistakes_are_named_at_once():
    found = wrong(
        "uniform raw",
        "cached",
        temperature=0.5,
        order="margin",
        corrector="cap",
        eta=7.0,
        hold=-1.0,
    )
    words = ("predictor", "order", "corrector", "eta", "hold", "temperature")
    assert all(any(line.startswith(f"sample.{word} ") for line in found) for word in words)


def test_labels_of_the_data_are_named_where_they_are_not_known_yet():
    assert label_misuses({"Sex": None}, Conditioning({"Sex": "F"}, 2.0)) == []
    assert label_misuses({}, Conditioning({}, 1.0)) == []
    (line,) = label_misuses({"Sex": None}, Conditioning({"Year": "1"}), "sample.")
    assert line == "sample.labels must be of Sex (got Year=1)"


def test_combinations_take_turns():
    labels = {"Sex": ["F", "M"], "Year": ["old", "new"]}
    asked = [tuple(each.labels.values()) for each in each_combination(labels, 2.0)]
    assert asked == [("F", "old"), ("F", "new"), ("M", "old"), ("M", "new")]
    assert each_combination({}) == [Conditioning()]


def test_what_is_said_is_what_matters():
    assert Conditioning(guidance=2.0).said() == {}
    assert Conditioning({"Sex": "F"}).said() == {"labels": {"Sex": "F"}, "guidance": 1.0}
    assert PLAIN.said() == {}
    assert Stepping(eta=0.7, hold=0.2, gamma=3.0, num_redrawn=4).said() == {}
    assert Stepping(corrector="cap", hold=0.2).said() == {"corrector": "cap", "eta": 0.1}
    loop = Stepping(corrector="loop", eta=0.2, hold=0.3, grid="cosine")
    assert loop.said() == {"grid": "cosine", "corrector": "loop", "eta": 0.2, "hold": 0.3}
    assert Stepping(corrector="gibbs", num_redrawn=4).said() == {
        "corrector": "gibbs",
        "num_redrawn": 4,
    }
    bound = Stepping(order="entropy_bound", gamma=0.5)
    assert bound.said() == {"order": "entropy_bound", "gamma": 0.5}
    assert Stepping(order="margin", gamma=0.5).said() == {"order": "margin"}


def test_every_name_is_someones():
    for names, field in (
        (PredictorName, "predictors"),
        (Grid, "grids"),
        (Order, "orders"),
        (Corrector, "correctors"),
    ):
        found = {name for can in ABILITIES.values() for name in getattr(can, field)}
        assert set(typing.get_args(names)) - {"auto"} == found
    assert {each.name for each in dataclasses.fields(Stepping)} >= {"grid", "order", "corrector"}
