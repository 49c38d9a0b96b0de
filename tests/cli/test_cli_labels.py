"""--label and --guidance: what a model was trained with, or one message."""

import pytest
import torch

from pipeline.checkpoints.checkpoint import load_checkpoint
from pipeline.cli.model import one_line
from pipeline.methods.samplers import Conditioning
from pipeline.methods.sedd.sampler import sample
from pipeline.scale.seeds import seeded

LABELS = {"Sex": ["F", "M"], "Year": ["below 1990", "from 1990"]}


@pytest.fixture
def labelled(make_model):
    return make_model(labels=LABELS)


def lines(sedd, command, folder, *more):
    arguments = (command, "--model", folder, "--steps", 4, "--seed", 7, "--num", 5, *more)
    result = sedd(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


@pytest.mark.parametrize("w", [1.0, 2.5])
def test_draws_what_the_sampler_draws_given_the_labels(sedd, elsewhere, labelled, tokenizer, w):
    asked = {"Sex": "M", "Year": "below 1990"}
    samples = sample(
        load_checkpoint(labelled, torch.device("cpu")),
        5,
        num_steps=4,
        predictor="auto",
        generator=seeded(torch.device("cpu"), 7, "sample", 0),
        conditioning=Conditioning(asked, w),
    )
    options = [each for item in asked.items() for each in ("--label", "=".join(item))]
    result = lines(sedd, "sample", labelled, *options, "--guidance", w)
    texts = [one_line(tokenizer.decode(ids)) for ids in samples.tokens.tolist()]
    assert result.stdout.splitlines() == texts
    assert f"Sex=M, Year=below 1990, guidance {w:g}" in result.stderr
    assert result.stdout != lines(sedd, "sample", labelled).stdout


def test_a_terminal_obeys_no_label(sedd, elsewhere, make_model):
    folder = make_model(labels={"Sex": ["\x1b[2J\nerror: M"]})
    said = lines(sedd, "sample", folder, "--label", "Sex=\x1b[2J\nerror: M").stderr
    assert r"Sex=\x1b[2J\nerror: M, guidance 1" in said


def test_infilling_is_asked_for_labels_too(sedd, elsewhere, labelled):
    filled = [
        lines(sedd, "infill", labelled, "--prefix", "ab", "--gap", 4, *more).stdout
        for more in ((), ("--label", "Sex=F", "--guidance", 3))
    ]
    assert filled[0] != filled[1]
    assert all(line.startswith("ab") for each in filled for line in each.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "Sex"], "--label: must be Column=value, each column once (got Sex)"),
        (["--label", "Sex=F", "--label", "Sex=M"], "each column once (got Sex=M)"),
        (["--label", "Sex=X"], "labels: Sex must be F or M (got X)"),
        (["--label", "Age=3", "--label", "Sex=X"], "labels must be of Sex or Year (got Age=3); l"),
        (["--guidance", "2"], "guidance must be 1 where no label is asked for (got 2.0)"),
        (["--label", "Sex=F", "--guidance", "-1"], "guidance must be a number of at least 0"),
        (["--label", "Sex=F", "--guidance", "nan"], "guidance must be a number of at least 0"),
    ],
)
def test_what_the_model_was_not_told_is_named(refusal, elsewhere, labelled, arguments, message):
    assert message in refusal("sample", "--model", labelled, "--steps", 4, *arguments)


@pytest.mark.parametrize("kind", ["conditional", "raw", "embedding"])
def test_models_without_labels_refuse_them_in_one_message(
    refusal, elsewhere, make_model, make_embedding, kind
):
    folder = make_embedding() if kind == "embedding" else make_model(parameterization=kind)
    said = refusal(
        *("sample", "--model", folder, "--steps", 4, "--label", "Sex=F", "--guidance", 2)
    )
    assert "trained with data.labels, which this one was not (got Sex=F, guidance 2)" in said
