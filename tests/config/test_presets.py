"""Recipes: whole, with sources, applied to params.yaml and back, and trained."""

import numpy as np
import pytest
import torch
from tiny_project import PROJECT, changed, shipped_params

from pipeline.config.edits import edited
from pipeline.config.params import params_of
from pipeline.config.presets import applied, changes, leaves, preset, presets, values_of
from pipeline.config.strict_yaml import parse
from pipeline.data.packed import Meta
from pipeline.errors import PipelineError
from pipeline.methods.registry import method_of
from pipeline.training.loop import Watch, fit
from pipeline.training.run import new_model, settings_of
from pipeline.training.state import TrainingState

SHIPPED = (PROJECT / "params.yaml").read_text()
NAMES = list(presets())
# What belongs to a machine, a person or the data sets of others.
NOT_OF_A_RECIPE = {
    *("zero_shot", "report", "tracking.uri", "tracking.log_model", "publish", "device", "oxen"),
    "resources",
}
SLOW = pytest.mark.slow


def test_the_first_recipe_is_the_shipped_file():
    assert NAMES[0] == "names"
    every = {
        key for key, _ in leaves(parse(SHIPPED)) if not {key, key.split(".")[0]} & NOT_OF_A_RECIPE
    }
    assert set(values_of("names")) == every
    assert changes(SHIPPED, "names") == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_written_and_taken_back_to_the_same_file(name):
    there = edited(SHIPPED, changes(SHIPPED, name))
    assert changes(there, name) == {}
    assert len(there.splitlines()) == len(SHIPPED.splitlines())
    assert [line.split("#")[1:] for line in there.splitlines()] == [
        line.split("#")[1:] for line in SHIPPED.splitlines()
    ]
    assert edited(there, changes(there, "names")) == SHIPPED
    # Whatever stood there before.
    for other in NAMES:
        after = edited(SHIPPED, changes(SHIPPED, other))
        assert edited(after, changes(after, name)) == there


@pytest.mark.parametrize(
    ("name", "blocks", "width", "length", "batch", "steps"),
    [
        ("text8", 12, 768, 256, 512, 1_000_000),
        ("lm1b", 12, 768, 128, 512, 1_000_000),
        ("owt-small", 12, 768, 1024, 512, 1_300_000),
        ("owt-medium", 24, 1024, 1024, 512, 1_300_000),
        ("owt-large", 36, 1280, 1024, 512, 1_300_000),
    ],
)
def test_published_sizes(name, blocks, width, length, batch, steps):
    params = applied(SHIPPED, changes(SHIPPED, name), name)
    assert (params.model.num_blocks, params.model.width) == (blocks, width)
    assert (params.pack.length, params.train.batch_size, params.train.num_steps) == (
        *(length, batch),
        steps,
    )
    train, diffusion = params.train, params.diffusion
    assert (train.warmup_steps, train.decay, params.baseline.decay) == (2500, "none", "none")
    assert (train.lr, train.beta1, train.beta2, train.ema, train.clip, train.weight_decay) == (
        *(3e-4, 0.9, 0.999, 0.9999, 1.0),
        0.0,
    )
    assert (diffusion.graph, diffusion.absorb.parameterization, diffusion.noise) == (
        *("absorb", "raw"),
        "loglinear",
    )
    assert params.data.repo == "bundled"
    scorer = ("gpt2-large", 1024) if name.startswith("owt") else ("baseline", length)
    assert (params.score.scorer, params.pack.length) == scorer


def test_what_others_set_stays():
    own = {"data.repo": "https://h/a/b", "data.revision": "1" * 64, "publish.strict": True}
    text = edited(SHIPPED, own | {"train.seed": 7, "steps": 9, "sweep": [3]})
    after = parse(edited(text, changes(text, "text8")))
    assert (after["data"]["repo"], after["publish"]["strict"]) == ("https://h/a/b", True)
    assert (after["train"]["seed"], after["sweep"]) == (0, [16, 32, 64, 128])
    assert parse(edited(text, changes(text, "names")))["data"]["repo"] == "bundled"


def test_an_unknown_recipe_is_named_with_those_there_are():
    with pytest.raises(
        PipelineError,
        match=r"preset owt: there is none; there are names, text8, lm1b, owt-small, owt-medium",
    ):
        preset("owt")


def test_a_recipe_that_does_not_go_with_the_rest_is_refused():
    text = edited(SHIPPED, {"sweep": [2]}).replace("temperatures: []", "temperatures: [0.5, 0.5]")
    with pytest.raises(PipelineError, match=r"mine: temperatures: values must differ"):
        applied(text, {"steps": 3}, "mine")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[SLOW] * ("owt" in name)) for name in NAMES]
)
def test_three_steps_at_the_real_vocabulary_and_length(name, tmp_path):
    """As the recipe says, but with the width, the batch and the steps cut."""
    cut = {"model.width": 8, "model.num_heads": 2, "train.num_steps": 3, "train.warmup_steps": 1}
    cut |= {"train.batch_size": 2, "train.accumulate": 1, "device": "cpu"}
    wanted = changed(shipped_params(), values_of(name) | cut)
    params, vocab_size = params_of(wanted, name), preset(name).vocab_size
    length, ends = params.pack.length, params.pack.mode != "stream"
    meta = Meta(
        *("uint32", length, params.pack.mode, vocab_size, *([0, 1] if ends else [None, None])),
        *(None, {}, {}, None, {}, {}, "", {}),
    )
    device = torch.device("cpu")
    model = new_model(params, meta, device)
    before = [each.clone() for each in model.network.parameters()]
    blocks = np.random.default_rng(0).integers(vocab_size, size=(8, length))
    state = TrainingState(tmp_path)
    fit(
        method_of(model).objective(model),
        blocks,
        settings_of(params, device),
        Watch(lambda: 0.0),
        device=device,
        state=state,
        desc=name,
    )
    # Random weights know nothing: about the log of the vocabulary a token.
    assert [*state.losses][-1]["train_loss"] / length == pytest.approx(np.log(vocab_size), rel=0.5)
    after = zip(before, model.network.parameters(), strict=True)
    assert any(not torch.equal(*pair) for pair in after)
