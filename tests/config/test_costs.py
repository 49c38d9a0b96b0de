"""What an experiment would take: operations counted by hand, and published days."""

import pytest
from tiny_project import PROJECT

from pipeline.config.costs import (
    Corpus,
    Network,
    costs,
    rates,
    sampling_operations,
    training_operations,
)
from pipeline.config.params import load_params
from pipeline.config.presets import applied, changes

SMALL = Network(169_627_218, 768, 12, 50_257, 1024)
OWT = Corpus(tokens=9_040_000_000, num_held_out=110_000, gigabytes=38)


def params_of(name, **more):
    text = (PROJECT / "params.yaml").read_text()
    return applied(text, changes(text, name) | more, "params.yaml")


CONDITIONAL = {"diffusion.absorb.parameterization": "conditional"}


def test_a_token_of_training_at_the_published_small_size():
    params = params_of("owt-small")
    # 6 operations a weight of 12 width^2 a block; attention's two products; the head at half.
    blocks, attention, head = 6 * 12 * 768**2 * 12, 12 * 1024 * 768 * 12, 6 * 768 * 50_257
    assert training_operations(params, SMALL) == blocks + attention + head / 2
    assert training_operations(params, SMALL) / 1e9 == pytest.approx(0.74, abs=0.005)
    uniform = params_of("owt-small", **{"diffusion.graph": "uniform"})
    assert training_operations(uniform, SMALL) / 1e9 == pytest.approx(0.85, abs=0.005)
    again = params_of("owt-small", **{"train.activation_checkpointing": True})
    assert training_operations(again, SMALL) == blocks * 4 / 3 + attention * 4 / 3 + head / 2


def test_a_cached_sample_is_evaluated_where_something_is_revealed():
    params = params_of("owt-small", **CONDITIONAL)
    evaluated = (sampling_operations(params, SMALL, 1024) / 1024 - SMALL.head) / SMALL.blocks
    assert evaluated == pytest.approx(647.4, abs=0.1)
    assert sampling_operations(params, SMALL, 1) == 1024 * (SMALL.blocks + SMALL.head)
    raw = sampling_operations(params_of("owt-small"), SMALL, 1024)
    assert raw == 1024 * 1025 * (SMALL.blocks + SMALL.head / 2)


def test_a_million_steps_on_eight_cards_take_days():
    params = params_of("owt-small", **{"train.num_steps": 1_000_000})
    train = next(
        cost
        for cost in costs(params, SMALL, OWT, gpu="h100", num_gpus=8, num_cores=16)
        if cost.stage == "train"
    )
    days = [each / 86_400 for each in train.seconds]
    assert days == pytest.approx([1.42, 1.89], abs=0.01)


def test_more_cards_train_faster_and_nothing_else():
    params = params_of("owt-large")
    found = [costs(params, SMALL, OWT, gpu="h100", num_gpus=n, num_cores=8) for n in (1, 8)]
    one, eight = ({cost.stage: cost for cost in each} for each in found)
    for stage, cost in one.items():
        times = 8 if stage in ("train", "baseline") else 1
        assert cost.seconds == pytest.approx([each * times for each in eight[stage].seconds])


def test_a_small_network_waits_for_its_kernels():
    params = load_params(PROJECT / "params.yaml")
    names = Network(806_455, 128, 4, 55, 16)
    found = costs(params, names, Corpus(1_677_104, 5_212), gpu="h100", num_gpus=1, num_cores=2)
    seconds = {cost.stage: cost.seconds for cost in found}
    assert seconds["train"] == pytest.approx((4400 * 0.013, 4400 * 0.013))
    assert seconds["pack"] is None


def test_a_part_of_the_held_out_texts_takes_a_part_of_the_time():
    every, some = (
        costs(params, SMALL, OWT, gpu="h100", num_gpus=1, num_cores=2)[3]
        for params in (
            params_of("owt-small"),
            params_of("owt-small", **{"evaluate.num_texts": 11_000}),
        )
    )
    assert (every.stage, some.stage) == ("evaluate", "evaluate")
    assert some.seconds == pytest.approx([each / 10 for each in every.seconds])


def test_every_rate_has_a_source():
    shipped = rates()
    for each in (shipped.training, shipped.inference, shipped.packing, *shipped.gpus.values()):
        assert each.source
