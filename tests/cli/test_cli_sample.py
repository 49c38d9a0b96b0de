import json
import shutil
from itertools import pairwise

import pytest
import torch

from pipeline.checkpoints.checkpoint import load_checkpoint
from pipeline.cli.model import one_line
from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.methods.sedd.sampler import sample
from pipeline.scale.seeds import seeded

MASKS = "░" * 8


def drawn(sedd, *arguments):
    result = sedd("sample", *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "variant", [("absorb", "conditional"), ("absorb", "raw"), ("uniform", "raw")], ids=str
)
def test_prints_what_the_sampler_draws_and_nothing_else(
    sedd, elsewhere, make_model, variant, tokenizer
):
    folder = make_model(*variant)
    samples = sample(
        load_checkpoint(folder, torch.device("cpu")),
        5,
        num_steps=4,
        predictor="auto",
        generator=seeded(torch.device("cpu"), 7, "sample", 0),
    )
    result = sedd("sample", "--model", folder, "--num", 5, "--steps", 4, "--seed", 7)
    assert result.exit_code == 0
    lines = [one_line(tokenizer.decode(ids)) for ids in samples.tokens.tolist()]
    assert result.stdout == "".join(f"{line}\n" for line in lines)
    name = "cached" if variant[1] == "conditional" else "analytic"
    assert result.stderr.startswith(f"{name}, 4 steps, seed 7, cpu\n")


def test_windows_of_running_text_are_printed_whole(sedd, elsewhere, make_model, tokenizer):
    folder = make_model(says=tokenizer.eos_id, odds=20, text_lengths=None)
    text = drawn(sedd, "--model", folder, "--steps", 4, "--num", 6, "--seed", 1)
    assert any("<eos>" in line.removesuffix("<eos>") for line in text.splitlines())


def test_seed_decides(sedd, elsewhere, model):
    options = ("--model", model, "--steps", 4, "--num", 6)
    first = drawn(sedd, *options, "--seed", 1)
    assert first == drawn(sedd, *options, "--seed", 1)
    assert first != drawn(sedd, *options, "--seed", 2)


def test_drawn_seed_is_told_and_draws_the_same_again(sedd, elsewhere, model):
    options = ("sample", "--model", model, "--steps", 4, "--num", 6)
    first = sedd(*options)
    seed = first.stderr.split("seed ")[1].split(",")[0]
    assert sedd(*options, "--seed", seed).stdout == first.stdout
    assert sedd(*options).stdout != first.stdout


def test_predictor_decides(sedd, elsewhere, model):
    options = ("--model", model, "--steps", 2, "--num", 20, "--seed", 1)
    assert drawn(sedd, *options, "--predictor", "first_hitting") != drawn(sedd, *options)
    assert drawn(sedd, *options, "--predictor", "cached") == drawn(sedd, *options)


@pytest.mark.parametrize(
    ("graph", "options", "said"),
    [
        ("absorb", ("--corrector", "cap", "--eta", 0.5), "corrector cap, eta 0.5\n"),
        ("absorb", ("--corrector", "loop", "--eta", 0.5), "eta 0.5, hold 0.1: not the model's"),
        ("absorb", ("--corrector", "forward_backward"), "corrector forward_backward, eta 0.1\n"),
        ("absorb", ("--order", "margin"), "order margin: not the model's own law\n"),
        ("absorb", ("--grid", "cosine"), "grid cosine\n"),
        ("uniform", ("--corrector", "gibbs", "--num-redrawn", 2), "gibbs, num_redrawn 2\n"),
        ("uniform", ("--temperature", 0.5), "temperature 0.5, top-p 1: not"),
    ],
)
def test_steps_corrections_and_order_are_told_and_draw_others(
    sedd, elsewhere, make_model, graph, options, said
):
    how = ("sample", "--model", make_model(graph), "--steps", 6, "--num", 20, "--seed", 1)
    result = sedd(*how, *options)
    assert result.exit_code == 0, result.stderr
    assert said in result.stderr
    assert result.stdout != sedd(*how).stdout


@pytest.mark.parametrize("num", [1, 3, 7])
def test_as_many_lines_as_asked_for_in_any_batches(sedd, elsewhere, model, num):
    out = drawn(sedd, "--model", model, "--steps", 2, "--num", num, "--batch-size", 3)
    assert len(out.splitlines()) == out.count("\n") == num


def test_empty_texts_are_empty_lines(sedd, elsewhere, make_model, tokenizer):
    folder = make_model(says=tokenizer.eos_id)
    assert drawn(sedd, "--model", folder, "--steps", 2, "--num", 3) == "\n\n\n"


@pytest.mark.parametrize(("token", "line"), [("<pad>", "<pad>" * 8), ("<unk>", "<unk>" * 8)])
def test_special_tokens_stay_visible(sedd, elsewhere, make_model, tokenizer, token, line):
    folder = make_model(says={"<pad>": tokenizer.pad_id, "<unk>": tokenizer.unk_id}[token])
    assert drawn(sedd, "--model", folder, "--steps", 2, "--num", 1) == line + "\n"


@pytest.mark.parametrize(("character", "shown"), [("\n", r"\n"), ("\\", r"\\"), ("a", "a")])
def test_a_text_is_one_line(sedd, elsewhere, make_model, tokenizer, character, shown):
    folder = make_model(says=tokenizer.encode_known(character)[0])
    assert drawn(sedd, "--model", folder, "--steps", 2, "--num", 2) == f"{shown * 8}\n" * 2


def test_escapes_are_unambiguous_and_leave_letters_alone():
    text = "Zoë\t👩\u200d👩\r\v\f\x1b\x1c\x85\u2028\u2029\\n\x00"
    line = one_line(text)
    assert len(line.splitlines()) == 1
    assert line.startswith("Zoë\t👩\u200d👩\\r\\x0b")
    assert line.encode("latin-1", "backslashreplace").decode("unicode_escape") == text
    assert one_line("\x7f\x9b") == r"\x7f\x9b"


@pytest.mark.parametrize("parameterization", ["conditional", "raw"])
def test_intermediate_states_go_to_stderr(sedd, elsewhere, make_model, parameterization):
    folder = make_model("absorb", parameterization)
    options = ("--model", folder, "--steps", 8, "--num", 3, "--seed", 1, "--batch-size", 2)
    result = sedd("sample", *options, "--show-intermediate")
    assert result.stdout == drawn(sedd, *options)
    rows = [line.split("\t") for line in result.stderr.splitlines()[1:]]
    for index in "012":
        states = [state for number, _, _, state in rows if number == index]
        assert states[0] == MASKS
        assert all(len(state) == 8 for state in states)
        assert "░" not in states[-1]
        assert len(states) == len(set(states)) > 2
        # Revealed positions stay as they are.
        for before, after in pairwise(states):
            assert all(b in ("░", a) for b, a in zip(before, after, strict=True))
    assert rows[0][1:3] == ["step 0", "t 1.0000"]


def test_project_supplies_steps_and_predictor(sedd, project, model):
    text = (project / "params.yaml").read_text()
    text = text.replace("steps: 128 ", "steps: 3 ").replace("predictor: auto ", "predictor: euler ")
    (project / "params.yaml").write_text(text)
    assert "euler, 3 steps, seed" in sedd("sample", "--model", model, "--num", 1).stderr


def test_project_supplies_temperature_and_top_p(sedd, project, model):
    text = (project / "params.yaml").read_text()
    text = text.replace("temperature: 1.0 ", "temperature: 0.5 ").replace(
        "top_p: 1.0 ", "top_p: 0.9 "
    )
    text = text.replace("corrector: none ", "corrector: loop ").replace("eta: 0.1 ", "eta: 0.3 ")
    (project / "params.yaml").write_text(text)
    options = ("sample", "--model", model, "--num", 1, "--steps", 2)
    assert "temperature 0.5, top-p 0.9" in sedd(*options).stderr
    assert "temperature 2, top-p 0.9" in sedd(*options, "--temperature", 2).stderr
    assert "temperature 0.5, top-p 1:" in sedd(*options, "--top-p", 1).stderr
    assert "corrector loop, eta 0.3, hold 0.5" in sedd(*options, "--hold", 0.5).stderr


@pytest.mark.parametrize("variant", ["conditional", "raw"])
def test_temperature_and_top_p(sedd, elsewhere, make_model, tokenizer, variant):
    """A model that says b three times as often as any of the 15 others, 1 in 6 times in all."""
    folder = make_model("absorb", variant, says=tokenizer.encode_known("b")[0], odds=3)
    options = ("--model", folder, "--steps", 4, "--num", 20, "--seed", 1)
    off = sedd("sample", *options)
    assert "temperature" not in off.stderr
    assert drawn(sedd, *options, "--temperature", 1, "--top-p", "1.0") == off.stdout
    for sharp in (("--temperature", 0.05), ("--top-p", 0.1)):
        result = sedd("sample", *options, *sharp)
        assert result.stdout == "bbbbbbbb\n" * 20
        assert "not the model's own law" in result.stderr


def test_default_model_is_the_one_just_trained(sedd, project, model):
    (project / "artifacts").mkdir()
    (project / "artifacts/checkpoint").symlink_to(model)
    assert len(drawn(sedd, "--steps", 1, "--num", 2).splitlines()) == 2


def test_no_model_yet(refusal, project):
    message = refusal("sample")
    assert "no model in artifacts/checkpoint" in message
    assert "--model" in message
    assert "dvc repro" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x" * 5000], "No such command 'xx"),
        (["--odd"], "No such option: --odd"),
        (["sample", "--num", "x" * 5000], "Invalid value for '--num': "),
        (["sample", "--odd\x1b[2J"], "No such option: --odd"),
        (["shift"], "Missing argument 'TEXT'"),
    ],
)
def test_what_is_typed_wrong_is_one_message(refusal, arguments, message):
    said = refusal(*arguments)
    assert said.startswith(message)
    assert said.endswith(" --help)")
    assert len(said) <= 1000


def test_no_command_is_help(sedd):
    assert sedd().stdout == sedd("--help").stdout
    assert sedd().exit_code == 0


def test_no_steps_outside_a_project(refusal, elsewhere, model):
    assert "--steps" in refusal("sample", "--model", model)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--steps", 0),
        ("--steps", -3),
        ("--steps", 2**63 - 1),
        ("--num", 2**63),
        ("--batch-size", 2**63),
        ("--device", "cuda:٣"),
        ("--device", f"cuda:{'9' * 20}"),
        ("--num", 0),
        ("--batch-size", 0),
        ("--seed", -1),
        ("--seed", 2**63),
        ("--device", "tpu"),
        ("--device", "cuda:99"),
        ("--temperature", 0.0),
        ("--temperature", -1.0),
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--top-p", 0.0),
        ("--top-p", 1.5),
    ],
)
def test_bad_values_are_named(refusal, project, model, option, value):
    message = refusal("sample", "--model", model, option, value)
    assert option.strip("-") in message
    assert str(value) in message


@pytest.mark.parametrize(
    ("graph", "options", "messages"),
    [
        ("absorb", ("--predictor", "cached"), ("analytic or euler", "raw", "got cached")),
        ("uniform", ("--predictor", "first_hitting"), ("raw", "got first_hitting")),
        ("uniform", ("--temperature", 0.5), ("temperature must be 1", "got 0.5")),
        ("uniform", ("--top-p", 0.5), ("top_p must be 1", "got 0.5")),
        (
            "absorb",
            ("--corrector", "cap", "--order", "margin", "--eta", 3),
            ("corrector must be none", "got cap", "order must be random", "eta", "got 3.0"),
        ),
    ],
)
@pytest.mark.parametrize("command", [("sample",), ("infill", "--prefix", "a")])
def test_what_a_model_cannot_do_is_said(
    refusal, elsewhere, make_model, command, graph, options, messages
):
    folder = make_model(graph, "raw")
    text = refusal(*command, "--model", folder, "--steps", 2, *options)
    assert text.startswith(str(folder))
    assert all(message in text for message in messages)


def test_bad_params_are_named(refusal, project, model):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("steps: 128 ", "steps: [1] "))
    assert "steps" in refusal("sample", "--model", model)


def test_other_tokenizer(refusal, elsewhere, make_model):
    from pipeline.data.tokenizer import train_char_tokenizer

    folder = make_model()
    train_char_tokenizer(["abcdefghi\n\\[}"]).save(folder / "tokenizer")
    assert "tokenizer" in refusal("sample", "--model", folder, "--steps", 1)


def test_truncated_model(refusal, elsewhere, make_model):
    folder = make_model()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refusal("sample", "--model", folder, "--steps", 1)


def test_missing_tokenizer(refusal, elsewhere, make_model):
    folder = make_model()
    (folder / "tokenizer/tokenizer.json").unlink()
    assert "no tokenizer" in refusal("sample", "--model", folder, "--steps", 1)


def test_a_tokenizer_of_another_size_than_the_model(refusal, elsewhere, model, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(model, folder)
    other = train_char_tokenizer(["abc"])
    other.save(folder / "tokenizer")
    config = json.loads((folder / "config.json").read_text())
    config["tokenizer_sha256"] = other.sha256
    (folder / "config.json").write_text(json.dumps(config))
    said = refusal("sample", "--model", folder, "--steps", 2)
    assert f"vocab_size is {config['vocab_size']}, and the tokenizer has 6 tokens" in said
