"""An export computes and draws what the model does, where this project cannot be seen."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exported import models, write_checkpoint
from reference_files import GOLDEN
from safetensors.torch import load_file

from pipeline.data.tokenizer import TextTokenizer
from pipeline.huggingface.card import Card
from pipeline.huggingface.export import write_export
from pipeline.methods.sedd.graph import sample_transition
from pipeline.methods.sedd.method import likeliest
from pipeline.methods.sedd.sampler import sample

MODELS = models()
SITE_PACKAGES = str(Path(torch.__file__).parents[1])
TEXTS = ["ABBA", "<eos>A?", "", "A B"]
CLOSE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.float64: {"rtol": 0, "atol": 1e-10}}
BOTH = pytest.mark.parametrize("dtype", CLOSE, ids=["float32", "float64"])
EACH = pytest.mark.parametrize("name", MODELS)


def asked(name, folder):
    """What is asked of a model: states, noise, fixed tokens, texts."""
    model, random = MODELS[name], torch.Generator().manual_seed(0)
    shape = (4, model.length)
    t = torch.rand(4, generator=random, dtype=torch.float64)
    x0 = torch.randint(model.config.vocab_size, shape, generator=random)
    sigma = model.noise.sigma(0.05 + 0.9 * t)
    fixed = torch.full(shape[1:], -1)
    fixed[1:4] = x0[0, 1:4]
    return {
        "folder": str(folder),
        "xt": sample_transition(model.graph, x0, sigma, random),
        "sigma": sigma.to(torch.float32),
        "fixed": fixed,
        "texts": TEXTS,
        "card": (folder / "README.md").read_text(),
        "has_mask": model.graph.mask_id is not None,
    }


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What was asked of each export and what it said, in a process with only site-packages."""
    folder = tmp_path_factory.mktemp("exports")
    asks = {}
    for name, model in MODELS.items():
        checkpoint = write_checkpoint(folder / name, model)
        write_export(checkpoint, folder / name / "export", Card(name, "mit"))
        asks[name] = asked(name, folder / name / "export")
    torch.save(asks, folder / "asked")
    script = Path(__file__).with_name("loads.py")
    command = [sys.executable, "-I", "-S", str(script), SITE_PACKAGES]
    done = subprocess.run(
        [*command, str(folder / "asked"), str(folder / "answered")],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return asks, torch.load(folder / "answered", weights_only=False)


@BOTH
@EACH
def test_scores_are_those_of_the_model(loaded, name, dtype):
    ask, answer = loaded[0][name], loaded[1][name]
    model = copy.deepcopy(MODELS[name]).to(dtype)
    with torch.no_grad():
        expected = model.log_score(ask["xt"], ask["sigma"].to(dtype))
    assert answer[f"log_score {dtype}"].dtype == dtype
    torch.testing.assert_close(answer[f"log_score {dtype}"], expected, **CLOSE[dtype])


@pytest.mark.parametrize("name", [path.name for path in sorted(GOLDEN.iterdir()) if path.is_dir()])
def test_every_golden_fixture_is_among_them(name):
    assert name in MODELS


@BOTH
@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("absorb")])
def test_logits_are_the_tokens_behind_masks(loaded, name, dtype):
    ask, answer = loaded[0][name], loaded[1][name]
    model = copy.deepcopy(MODELS[name]).to(dtype)
    masks = ask["xt"] == model.config.vocab_size
    assert masks.any()
    with torch.no_grad():
        score = model.log_score(ask["xt"], ask["sigma"].to(dtype))[..., :-1]
    logits = answer[f"logits {dtype}"]
    assert logits.shape == (*ask["xt"].shape, model.config.vocab_size)
    found = logits.log_softmax(-1)[masks]
    torch.testing.assert_close(found, score.log_softmax(-1)[masks], **CLOSE[dtype])


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("absorb")])
def test_without_sigma_it_is_the_noise_under_which_as_many_are_masked(loaded, name):
    ask, answer = loaded[0][name], loaded[1][name]
    likely = answer["logits alone torch.float32"].argmax(-1)
    for row, found in zip(ask["xt"], likely, strict=True):
        fixed = row.masked_fill(row == MODELS[name].config.vocab_size, -1)
        expected = likeliest(MODELS[name], fixed[None])[0]
        assert torch.equal(torch.where(fixed == -1, found, fixed), expected)


@EACH
def test_the_same_uniforms_draw_the_same_samples(loaded, name):
    ask, answer = loaded[0][name], loaded[1][name]
    for key, seed, fixed in (("samples", 1, None), ("infilled", 2, ask["fixed"])):
        generator = torch.Generator().manual_seed(seed)
        expected = sample(
            MODELS[name], 6, num_steps=5, predictor="auto", generator=generator, fixed=fixed
        ).tokens
        assert torch.equal(answer[key], expected), key
        assert len(answer[key].unique(dim=0)) > 1
    assert (answer["infilled"][:, 1:4] == ask["fixed"][1:4]).all()


@EACH
def test_weights_and_tokenizer_are_the_models(loaded, name):
    ask, answer = loaded[0][name], loaded[1][name]
    network = MODELS[name].network.state_dict()
    stored = load_file(Path(ask["folder"]) / "model.safetensors")
    assert stored.keys() == network.keys() == answer["state"].keys()
    for each, value in network.items():
        assert torch.equal(stored[each], value), each
        assert torch.equal(answer["state"][each], value), each
    tokenizer = TextTokenizer.load(Path(ask["folder"]).parent / "tokenizer")
    assert answer["ids"] == tokenizer.encode_batch(TEXTS)
    assert answer["texts"] == [tokenizer.decode_all(row) for row in answer["samples"]]
    assert answer["mask_id"] == MODELS[name].graph.mask_id
    assert answer["special ids"] == (tokenizer.eos_id, tokenizer.pad_id)
    definition = Path(ask["folder"], "tokenizer.json").read_text()
    assert definition == tokenizer.definition


@EACH
def test_what_the_card_says_to_do_works(loaded, name):
    model, shown = MODELS[name], loaded[1][name]["card"]
    assert len(shown["texts"]) == 5
    assert shown["log_score"].shape == (5, model.length, model.graph.num_states)
    assert (shown["logits"] is None) == (model.graph.mask_id is None)


def test_the_modelling_file_imports_nothing_of_this_project(loaded):
    source = Path(loaded[0]["absorb_pth"]["folder"], "modeling_sedd.py").read_text()
    roots = set(re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE))
    assert roots == {"dataclasses", "itertools", "math", "torch", "transformers"}
