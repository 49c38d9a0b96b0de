"""What the commands say and do with a model of embedding diffusion."""

import math

import pytest
from test_cli_explain import rows


@pytest.fixture(scope="session")
def folder(make_embedding):
    return make_embedding()


@pytest.mark.parametrize("predictor", ["auto", "ddim", "ddpm", "draw"])
def test_sample_and_infill(sedd, elsewhere, folder, predictor):
    options = ("--model", folder, "--num", 4, "--steps", 5, "--seed", 3, "--predictor", predictor)
    drawn = [sedd("sample", *options, "--batch-size", size) for size in (4, 4)]
    assert drawn[0].exit_code == 0, drawn[0].stderr
    assert drawn[0].stdout == drawn[1].stdout
    assert len(drawn[0].stdout.splitlines()) == 4
    assert drawn[0].stderr.startswith(predictor.replace("auto", "ddpm"))
    filled = sedd("infill", "--template", "ab[2]c[1]", *options)
    assert filled.exit_code == 0, filled.stderr
    assert "conditioning" not in filled.stderr
    # Of eight tokens the template fixes all but three.
    assert all(text.startswith("ab") for text in filled.stdout.splitlines())


def test_states_become_tokens(sedd, elsewhere, folder):
    result = sedd(
        *("sample", "--model", folder, "--num", 2, "--steps", 9, "--seed", 1),
        "--show-intermediate",
    )
    states = [line.split("\t")[3] for line in result.stderr.splitlines()[1:]]
    assert all(len(state) == 8 for state in states)
    assert "░" in states[0]
    assert "░" not in states[-1]


def test_a_model_that_saw_no_known_tokens_says_so(sedd, elsewhere, make_embedding):
    options = ("--model", make_embedding(known=0.0), "--num", 1, "--steps", 2)
    assert "known is 0" in sedd("infill", "--prefix", "ab", *options).stderr


def test_a_sampler_of_the_other_method_is_refused(sedd, elsewhere, folder, model):
    for of, named, has in (
        (folder, "cached", "ddpm, ddim or draw"),
        (model, "ddim", "cached or first_hitting"),
    ):
        result = sedd("sample", "--model", of, "--steps", 2, "--predictor", named)
        assert result.exit_code == 1
        assert f"(got {named})" in result.stderr
        assert has in result.stderr


def test_the_forward_process_and_the_loss_by_position(sedd, elsewhere, folder):
    options = ("abc", "--model", folder, "--seed", 1)
    shown = rows(sedd("perturb", *options, "-t", 0))
    assert shown["moved"] == "0" * 8
    assert float(shown["g"]) == -5
    assert shown["signal to noise"].startswith(f"{math.exp(5):.6f}")
    shown = rows(sedd("perturb", *options, "-t", 1))
    assert float(shown["g"]) == 6
    assert "1" in shown["moved"]
    table = rows(sedd("loss", *options, "-t", 0.5))
    assert table["output"] == "[1, 8, 4]"
    assert table["loss"] == "[1, 8]"
    assert float(table["sum"]) > 0
