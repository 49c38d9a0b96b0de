import math
import re

import pytest

COMMANDS = [["perturb", "-t", 0.5], ["loss", "-t", 0.5], ["shift", "-n", 1]]


def rows(result):
    assert result.exit_code == 0, result.stderr
    lines = (re.split(r" {2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    return dict(line for line in lines if len(line) == 2)


@pytest.mark.parametrize("t", [0.0, 0.35, 1.0])
def test_perturb_prints_the_noise(sedd, model, t):
    shown = rows(sedd("perturb", "abc", "-t", t, "--model", model, "--seed", 1))
    move_chance = (1 - 1e-3) * t
    assert float(shown["sigma"]) == pytest.approx(-math.log(1 - move_chance), abs=1e-6)
    assert float(shown["move chance"]) == pytest.approx(move_chance, abs=1e-6)
    assert shown["mask id"] == "16"
    assert shown["x0"] == "abc⏎····"
    assert shown["moved"] == "".join("01"[glyph == "░"] for glyph in shown["xt"])
    for clean, noised in zip(shown["x0"], shown["xt"], strict=True):
        assert noised in ("░", clean)


def test_perturb_at_both_ends(sedd, model):
    assert rows(sedd("perturb", "abc", "-t", 0, "--model", model))["moved"] == "0" * 8
    noised = rows(sedd("perturb", "abc", "-t", 1, "--model", model, "--seed", 1))["xt"]
    assert noised == "░" * 8


def test_perturb_moves_the_share_it_says(sedd, model):
    moved = "".join(
        rows(sedd("perturb", "abc", "-t", 0.35, "--model", model, "--seed", seed))["moved"]
        for seed in range(30)
    )
    # 240 positions at 0.35, standard error 0.031.
    assert abs(moved.count("1") / len(moved) - 0.35) < 0.124


def test_perturb_without_a_mask(sedd, make_model):
    folder = make_model("uniform", "raw")
    shown = rows(sedd("perturb", "abc", "-t", 0.9, "--model", folder, "--seed", 1))
    assert shown["mask id"].startswith("none")
    assert "1" in shown["moved"]
    assert "░" not in shown["xt"]


@pytest.mark.parametrize(
    ("variant", "states"),
    [(("absorb", "conditional"), 17), (("absorb", "raw"), 17), (("uniform", "raw"), 16)],
    ids=str,
)
def test_loss_by_position(sedd, elsewhere, make_model, variant, states):
    options = ("abc", "-t", 0.5, "--model", make_model(*variant), "--seed", 1)
    result = sedd("loss", *options)
    shown = rows(result)
    assert shown["output"] == f"[1, 8, {states}]"
    assert shown["loss"] == "[1, 8]"
    assert {name: shown[name] for name in ("x0", "moved", "xt")} == {
        name: value
        for name, value in rows(sedd("perturb", *options)).items()
        if name in ("x0", "moved", "xt")
    }
    table = re.findall(r"^ +(\d)  (.)   (.)   (\S+)$", result.stdout, re.MULTILINE)
    assert [int(position) for position, *_ in table] == list(range(8))
    assert "".join(clean for _, clean, _, _ in table) == shown["x0"]
    assert "".join(noised for _, _, noised, _ in table) == shown["xt"]
    losses = [float(nats) for *_, nats in table]
    assert sum(losses) == pytest.approx(float(shown["sum"]), abs=1e-3)
    assert all(nats >= 0 for nats in losses)
    if variant[0] == "absorb":
        assert [nats > 0 for nats in losses] == [moved == "1" for moved in shown["moved"]]


def test_shift_moves_every_id(sedd, model):
    shown = rows(sedd("shift", "abc", "-n", 1, "--model", model))
    assert (shown["text"], shown["shifted"]) == ("abc", "bcd")
    ids = [list(map(int, re.findall(r"\d+", shown[name]))) for name in ("ids", "shifted ids")]
    assert ids[1] == [id + 1 for id in ids[0]]


def test_shift_wraps_around_past_the_special_tokens(sedd, model, tokenizer):
    plain = tokenizer.size - 3
    assert rows(sedd("shift", "i", "-n", 1, "--model", model))["shifted"] == r"\n"
    assert rows(sedd("shift", "i", "-n", plain, "--model", model))["shifted"] == "i"
    there = rows(sedd("shift", "bad", "-n", -7, "--model", model))["shifted"]
    back = there.encode().decode("unicode_escape")
    assert rows(sedd("shift", back, "-n", 7, "--model", model))["shifted"] == "bad"


@pytest.mark.parametrize("command", COMMANDS)
def test_text_that_cannot_be_encoded(refusal, elsewhere, model, command):
    name, *options = command
    assert "does not know 'é', 'Z'" in refusal(name, "éaZ", *options, "--model", model)


@pytest.mark.parametrize("command", ["perturb", "loss"])
def test_text_that_is_too_long(refusal, elsewhere, model, command):
    message = refusal(command, "abcdefgh", "-t", 0.5, "--model", model)
    assert message == ("the text has 8 tokens; a block of this model holds at most 7 and their eos")


@pytest.mark.parametrize(
    ("command", "t"),
    [("perturb", 1.5), ("perturb", -0.1), ("perturb", "nan"), ("loss", 0), ("loss", 1.01)],
)
def test_times_out_of_range(refusal, elsewhere, model, command, t):
    assert f"(got {t})" in refusal(command, "abc", "-t", t, "--model", model)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_model_yet(refusal, project, command):
    name, *options = command
    message = refusal(name, "abc", *options)
    assert "--model" in message
    assert "dvc repro" in message
