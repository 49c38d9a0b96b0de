"""`sedd export`: what it writes and knows, and what is wrong with what is asked."""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import TOKEN, receiving
from safetensors.torch import load_file, save_file
from tiny_project import PROJECT

from pipeline.checkpoints.checkpoint import weights_sha256

FILES = {
    "README.md",
    "config.json",
    "model.safetensors",
    "modeling_sedd.py",
    "tokenizer.json",
    "tokenizer_config.json",
}
FIGURES = dict.fromkeys(("gen_ppl", "gen_ppl_stderr", "entropy", "well_formed", "nfe"), 1.5)
LIKELIHOOD = ("bound_nats_per_char", "bound_stderr", "baseline_nats_per_char", "baseline_stderr")
RESULTS = {
    "scorer": "baseline@01",
    "likelihood": dict.fromkeys(LIKELIHOOD, 2.25),
    "by_steps": {"4": FIGURES},
    "real_text": FIGURES,
}


def test_the_folder(sedd, model, elsewhere):
    result = sedd("export", model, "to/names", "--license", "mit")
    assert result.exit_code == 0, result.output
    folder = elsewhere / "to/names"
    assert {path.name for path in folder.iterdir()} == FILES
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert result.stdout == f"exported {model} to {folder}: {size:,} bytes\n"
    card = (folder / "README.md").read_text()
    assert "# names\n" in card
    assert "there are no figures" in card


@pytest.fixture
def reported(elsewhere, model):
    """A project whose last report is of the model."""
    run = {"sha256": weights_sha256(model)}
    written = {
        "artifacts/runs/train.json": run,
        "artifacts/provenance.json": {"repo": "bundled", "commit": "c0ffee"},
        "reports/results.json": RESULTS,
    }
    for name, value in written.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(json.dumps(value))
    entries = [
        {"path": name, "md5": hashlib.md5(Path(name).read_bytes()).hexdigest()} for name in written
    ]
    lock = {"stages": {"report": {"deps": entries[:2], "outs": entries[2:]}}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    return elsewhere


def card(sedd, model, name):
    assert sedd("export", model, name, "--license", "mit").exit_code == 0
    return Path(name, "README.md").read_text()


def test_data_and_figures_of_the_projects_own_model(sedd, model, make_model, reported):
    text = card(sedd, model, "own")
    assert "`bundled` at commit `c0ffee`" in text
    assert "at most 2.250 ± 2.250" in text
    other = card(sedd, make_model(graph="uniform"), "other")
    assert "not recorded" in other
    assert "there are no figures" in other


@pytest.mark.parametrize("stale", ["reports/results.json", "artifacts/runs/train.json"])
def test_figures_of_another_training_are_not_the_models(sedd, model, reported, stale):
    values = json.loads(Path(stale).read_text())
    Path(stale).write_text(json.dumps(values, indent=1))
    text = card(sedd, model, "own")
    assert "`bundled` at commit `c0ffee`" in text
    assert "there are no figures" in text


def test_what_is_wrong_is_one_message(refusal, model, make_model, make_embedding, elsewhere):
    (elsewhere / "full").mkdir()
    (elsewhere / "full/mine").touch()
    said = refusal("export", model, "full", "--license", "mit")
    assert said == f"DST must be new or an empty folder (got {elsewhere / 'full'})"
    assert refusal("export", model, "to").startswith("Missing option '--license'")
    said = refusal("export", model, "to", "--license", "Mine!")
    assert said.startswith("license must be a licence as the hub spells it")
    assert refusal("export", model, "to", "--license", "mit", "--name", "a b").startswith("name")
    assert refusal("export", "nowhere", "to", "--license", "mit").startswith("no model in nowhere")
    embedding = make_embedding()
    said = refusal("export", embedding, "to", "--license", "mit")
    assert said == f"{embedding} is of method embedding; an export holds the score of method sedd"
    labelled = make_model(labels={"Sex": ["F", "M"]})
    assert refusal("export", labelled, "to", "--license", "mit") == (
        f"{labelled} was trained with data.labels (Sex); an export holds a score of texts alone"
    )
    said = refusal("export", model, "to", "--license", "mit", "--push", "names")
    assert said == "--push must be a Hugging Face id, ORG/NAME (got names)"
    assert not (elsewhere / "to").exists()


# Back.


def test_import_takes_an_export_back_to_the_same_bytes(sedd, make_model, elsewhere):
    model = make_model(graph="uniform", parameterization="raw")
    assert sedd("export", model, "out", "--license", "mit").exit_code == 0
    # It is read, never run.
    Path("out/modeling_sedd.py").write_text("raise SystemExit('run')")
    result = sedd("import", "out", "back")
    assert result.exit_code == 0, result.output
    paths = {path.relative_to(model) for path in model.rglob("*") if path.is_file()}
    assert {path.relative_to("back") for path in Path("back").rglob("*") if path.is_file()} == paths
    for path in paths:
        assert (Path("back") / path).read_bytes() == (model / path).read_bytes(), path


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_export_that_does_not_fit_together_is_refused(sedd, refusal, model, elsewhere):
    out = elsewhere / "out"
    assert sedd("export", model, out, "--license", "mit").exit_code == 0
    config = (out / "config.json").read_text()
    for values, said in (
        ({"width": 16}, "does not fit its config"),
        ({"tokenizer_sha256": "0" * 64}, "was trained with tokenizer 000000000000, this one is"),
        ({"eps": math.nan}, f"{out}/config.json: Out of range float values"),
        ({"num_tokens": 7}, f"{out}/model.safetensors does not fit its config"),
    ):
        changed(out / "config.json", **values)
        message = refusal("import", out, "back")
        assert said in message
        assert ".partial" not in message
        (out / "config.json").write_text(config)
    without = {key: value for key, value in json.loads(config).items() if key != "graph"}
    (out / "config.json").write_text(json.dumps(without))
    assert refusal("import", out, "back") == f"{out / 'config.json'} lacks graph"
    (out / "config.json").write_text(config)
    said = refusal("import", out, "back", "--tokenizer", "other")
    assert said == f"--tokenizer: the export in {out} has its own"
    assert not Path("back").exists()
    assert {path.name for path in elsewhere.iterdir()} == {"out"}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8, torch.float8_e4m3fn])
def test_weights_of_an_export_must_be_numbers(sedd, refusal, model, elsewhere, dtype):
    assert sedd("export", model, "out", "--license", "mit").exit_code == 0
    weights = load_file("out/model.safetensors")
    weights["vocab_embed.embedding"] = weights["vocab_embed.embedding"].to(dtype)
    save_file(weights, "out/model.safetensors")
    said = refusal("import", "out", "back")
    name = str(dtype).removeprefix("torch.")
    assert f"vocab_embed.embedding is {name}, expected float32" in said
    assert not Path("back").exists()


# The hub.


def export_to(endpoint, tmp_path, model, name, **environment):
    """`sedd export` in a process of its own: the hub's client reads its address on import."""
    command = [sys.executable, "-c", "from pipeline.cli import app; app()", "export"]
    left = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    left |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [*command, str(model), name, "--license", "mit", "--push", "org/names"],
        capture_output=True,
        text=True,
        env=left | environment | {"PYTHONPATH": str(PROJECT)},
        cwd=tmp_path,
        check=False,
    )


@pytest.mark.slow
def test_the_hub_gets_every_file(model, tmp_path):
    with receiving(tmp_path / "sent") as (endpoint, made):
        result = export_to(endpoint, tmp_path, model, "one", HF_TOKEN=TOKEN)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[1] == f"sent to {endpoint}/org/names"
        assert made == ["org/names"]
        for name in FILES:
            sent = (tmp_path / "sent" / name).read_bytes()
            assert sent == (tmp_path / "one" / name).read_bytes()
        result = export_to(endpoint, tmp_path, model, "two", HF_TOKEN="hf_another")
        assert result.returncode == 1
        assert "error: --push: org/names cannot be sent to the hub (" in result.stderr


@pytest.mark.slow
def test_without_a_token_it_is_said_where_to_get_one(model, tmp_path):
    result = export_to("http://127.0.0.1:9", tmp_path, model, "one")
    assert result.returncode == 1
    assert result.stderr == (
        "error: --push: there is no token for the Hugging Face hub: make one that may write at "
        "https://huggingface.co/settings/tokens, then `hf auth login`, or set HF_TOKEN\n"
    )
    assert (tmp_path / "one").is_dir()
