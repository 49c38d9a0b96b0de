"""The sample stage: its bytes depend on inputs and seed alone, its clock stands apart."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_project import TINY, write_params

from pipeline.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from pipeline.config.params import load_params
from pipeline.data.packed import Packed
from pipeline.data.tokenizer import TextTokenizer
from pipeline.evaluation.samples import Samples
from pipeline.files import read_jsonl, read_object
from pipeline.methods.sedd.method import config_of
from pipeline.methods.sedd.model import SEDD
from stages.sample import main

CHECKPOINT, TOKENIZER = Path("artifacts/checkpoint"), Path("artifacts/tokenizer")


@pytest.fixture
def trained(tiny):
    """A checkpoint with random weights beside the tiny data."""
    params, meta = load_params(), Packed.open(Path("artifacts/packed")).meta
    torch.manual_seed(0)
    model = SEDD(config_of(params, meta.vocab_size, meta.length))
    torch.nn.init.normal_(model.network.output_layer.linear.weight)
    save(model, text_lengths=meta.text_lengths)
    return tiny


def save(model, text_lengths):
    sha256 = Packed.open(Path("artifacts/packed")).meta.tokenizer_sha256
    save_checkpoint(
        CHECKPOINT,
        model,
        tokenizer=TOKENIZER,
        tokenizer_sha256=sha256,
        text_lengths=text_lengths,
    )


def test_all_of_a_window_of_running_text_is_its_text(trained):
    model = load_checkpoint(CHECKPOINT, torch.device("cpu"))
    tokenizer = TextTokenizer.load(TOKENIZER)
    torch.nn.init.zeros_(model.network.output_layer.linear.weight)
    torch.nn.init.zeros_(model.network.output_layer.linear.bias)
    save(model, text_lengths=None)
    main(4, CHECKPOINT, TOKENIZER, Path("out"))
    rows = read_jsonl(Path("out/4.jsonl"))
    assert any("<eos>" in row["text"] for row in rows)
    assert all(row["text"] == tokenizer.decode_all(row["ids"]) for row in rows)


def test_rows_are_complete_and_trace_ends_at_them(trained):
    main(4, CHECKPOINT, TOKENIZER, Path("out"))
    rows = read_jsonl(Path("out/4.jsonl"))
    tokenizer = TextTokenizer.load(TOKENIZER)
    assert [row["index"] for row in rows] == list(range(16))
    for row in rows:
        assert len(row["ids"]) == 16
        assert row["text"] == tokenizer.decode(row["ids"])
        assert 1 <= row["nfe"] <= 5
        assert (row["num_steps"], row["seed"]) == (4, 0)
        assert (row["predictor"], row["temperature"], row["top_p"]) == ("cached", 1.0, 1.0)
    assert "corrector" not in rows[0]
    trace = read_object(Path("out/4.trace.json"))["samples"]
    assert len(trace) == 2
    for states, row in zip(trace, rows, strict=False):
        assert [state["t"] for state in states] == sorted((s["t"] for s in states), reverse=True)
        assert set(states[0]["text"]) == {"░"}
        assert states[-1]["text"] == tokenizer.show(row["ids"])
    timing = read_object(Path("out/4.timing.json"))
    assert timing["device"] == "cpu"
    assert timing["predictor"] == "cached"
    assert timing["samples_per_second"] == pytest.approx(16 / timing["seconds"])


def test_same_seed_same_bytes_another_seed_others(trained):
    for out in ("first", "again"):
        main(4, CHECKPOINT, TOKENIZER, Path(out))
    write_params(trained, TINY | {"sample.seed": 1})
    main(4, CHECKPOINT, TOKENIZER, Path("other"))
    first, again, other = (Path(out, "4.jsonl").read_bytes() for out in ("first", "again", "other"))
    assert first == again
    assert first != other


def test_batches_make_up_the_number_asked_for(trained):
    write_params(trained, TINY | {"sample.num": 7, "sample.batch_size": 3, "sample.num_traced": 5})
    main(2, CHECKPOINT, TOKENIZER, Path("out"))
    assert len(read_jsonl(Path("out/2.jsonl"))) == 7
    assert len(read_object(Path("out/2.trace.json"))["samples"]) == 3


@pytest.mark.parametrize("predictor", ["analytic", "euler", "first_hitting"])
def test_every_sampler_is_recorded_and_traced(trained, predictor):
    sharp = {"sample.temperature": 0.5, "sample.top_p": 0.9}
    write_params(trained, TINY | {"sample.predictor": predictor} | sharp)
    main(5, CHECKPOINT, TOKENIZER, Path("out"))
    rows = read_jsonl(Path("out/5.jsonl"))
    for row in rows:
        assert (row["predictor"], row["temperature"], row["top_p"]) == (predictor, 0.5, 0.9)
        assert row["nfe"] == 16 if predictor == "first_hitting" else row["nfe"] <= 6
    texts = Samples.read(Path("out/5.jsonl"))
    assert (texts.num_steps, len(texts)) == (5, 16)
    trace = read_object(Path("out/5.trace.json"))["samples"]
    assert [state["t"] for state in trace[0]] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0, 0])
    assert set(trace[0][0]["text"]) == {"░"}
    assert "░" not in trace[0][-1]["text"]


@pytest.mark.parametrize(
    "changes",
    [
        {"corrector": "rescale", "eta": 0.5},
        {"corrector": "conf", "eta": 1.0},
        {"order": "confidence"},
        {"grid": "cosine"},
    ],
    ids=str,
)
def test_corrections_order_and_grid_are_recorded(trained, changes):
    write_params(trained, TINY | {f"sample.{key}": value for key, value in changes.items()})
    main(5, CHECKPOINT, TOKENIZER, Path("out"))
    rows = read_jsonl(Path("out/5.jsonl"))
    assert all(row[key] == value for row in rows for key, value in changes.items())
    assert all(1 <= row["nfe"] <= 6 for row in rows)
    trace = read_object(Path("out/5.trace.json"))["samples"]
    assert len(trace[0]) == 7
    assert "░" not in trace[0][-1]["text"]


def test_temperature_and_top_p_make_other_samples(trained):
    changes = [{}, {"sample.temperature": 0.5}, {"sample.top_p": 0.5}, {"sample.temperature": 1}]
    written = []
    for place, change in enumerate(changes):
        write_params(trained, TINY | change)
        main(4, CHECKPOINT, TOKENIZER, Path(str(place)))
        written.append(Path(str(place), "4.jsonl").read_bytes())
    assert written[0] == written[3]
    assert len(set(written)) == 3


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ({"parameterization": "raw"}, {"sample.predictor": "cached"}, "(got cached)"),
        (
            {"graph": "uniform", "parameterization": "raw"},
            {"sample.top_p": 0.5},
            "sample: top_p must be 1 with the raw parameterization of graph uniform",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_sampled_so_is_refused(
    trained, capsys, config, change, message
):
    """As when the checkpoint was not made under these parameters."""
    made = load_checkpoint(CHECKPOINT, torch.device("cpu")).config
    model = SEDD(replace(made, **config))
    sha256 = Packed.open(Path("artifacts/packed")).meta.tokenizer_sha256
    save_checkpoint(CHECKPOINT, model, tokenizer=TOKENIZER, tokenizer_sha256=sha256)
    write_params(trained, TINY | change)
    with pytest.raises(SystemExit):
        main(4, CHECKPOINT, TOKENIZER, Path("out"))
    error = capsys.readouterr().err
    assert error.startswith("error: sample: ")
    assert message in error
    assert not Path("out").exists()


@pytest.mark.parametrize("num_steps", [0, -3])
def test_step_counts_below_one_are_refused(trained, capsys, num_steps):
    with pytest.raises(SystemExit):
        main(num_steps, CHECKPOINT, TOKENIZER, Path("out"))
    assert f"must be at least 1 (got {num_steps})" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_checkpoint_of_another_tokenizer_is_refused(trained, capsys):
    config = CHECKPOINT / "config.json"
    config.write_text(json.dumps(read_object(config) | {"tokenizer_sha256": "0" * 64}))
    with pytest.raises(SystemExit):
        main(4, CHECKPOINT, TOKENIZER, Path("out"))
    assert "was trained with tokenizer 000000000000" in capsys.readouterr().err


def test_a_truncated_checkpoint_is_refused(trained, capsys):
    weights = CHECKPOINT / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(SystemExit):
        main(4, CHECKPOINT, TOKENIZER, Path("out"))
    assert "model.safetensors cannot be read" in capsys.readouterr().err


def test_a_missing_gpu_is_said(trained, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    write_params(trained, TINY | {"device": "cuda"})
    with pytest.raises(SystemExit):
        main(4, CHECKPOINT, TOKENIZER, Path("out"))
    said = capsys.readouterr().err
    assert said.startswith("error: device: this PyTorch")
    assert said.endswith("(got cuda); use auto or cpu\n")


def test_another_temperature_is_in_the_name_and_the_rows(trained):
    main(4, CHECKPOINT, TOKENIZER, Path("out"), temperature="0.5")
    names = [f"temperature-0.5{ending}" for ending in (".jsonl", ".timing.json", ".trace.json")]
    assert sorted(path.name for path in Path("out").iterdir()) == names
    rows = read_jsonl(Path("out") / names[0])
    assert {(row["num_steps"], row["temperature"]) for row in rows} == {(4, 0.5)}
    write_params(trained, TINY | {"sample.temperature": 0.5})
    main(4, CHECKPOINT, TOKENIZER, Path("other"))
    assert read_jsonl(Path("other/4.jsonl")) == rows


@pytest.mark.parametrize(
    ("given", "said"), [("abc", "--temperature must be a number (got abc)"), ("nan", "(got nan)")]
)
def test_a_temperature_that_is_none_is_refused(trained, capsys, given, said):
    with pytest.raises(SystemExit):
        main(4, CHECKPOINT, TOKENIZER, Path("out"), temperature=given)
    assert said in capsys.readouterr().err
    assert not Path("out").exists()
