"""What a model card says, and what stands in the way of an export."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from exported import conditional, models, write_checkpoint
from safetensors.torch import load_file, save_file

from pipeline.errors import CheckpointError, ParamsError
from pipeline.huggingface.card import Card, Data, Results, render
from pipeline.huggingface.export import write_export

FIGURES = {"gen_ppl": 9.5, "gen_ppl_stderr": 0.25, "entropy": 2.5, "well_formed": 0.75, "nfe": 4.0}
RESULTS = {
    "scorer": "baseline@0123456789ab",
    "likelihood": {
        "bound_nats_per_char": 2.2281,
        "bound_stderr": 0.0064,
        "baseline_nats_per_char": 2.082,
        "baseline_stderr": 0.006,
    },
    "by_steps": {"128": FIGURES, "4": FIGURES | {"gen_ppl": None, "gen_ppl_stderr": None}},
    "real_text": FIGURES | {"gen_ppl": 7.9},
}
DATA = {"repo": "bundled", "commit": "98717ad1"}


def card_of(model, **known):
    config = model.config.asdict() | {"text_lengths": None, "tokenizer_sha256": "0" * 64}
    return render(Card("names", "mit", **known), config, 2000)


def test_front_matter_and_figures():
    text = card_of(
        conditional("absorb"), data=Data.model_validate(DATA), results=Results(**RESULTS)
    )
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["sedd", "text-diffusion", "discrete-diffusion"],
    }
    assert "`bundled` at commit `98717ad1`" in body
    assert "Held-out text: at most 2.228 ± 0.006 nats a character" in body
    rows = [line for line in body.splitlines() if line.startswith(("| 4", "| 128", "| real"))]
    assert rows == [
        "| 4 | – | 2.500 | 0.750 | 4.0 |",
        "| 128 | 9.50 ± 0.25 | 2.500 | 0.750 | 4.0 |",
        "| real text | 7.90 ± 0.25 | 2.500 | 0.750 | – |",
    ]
    assert "`baseline@0123456789ab`" in body
    assert "@inproceedings{lou2024discrete" in body
    assert "\n\n\n" not in body


def test_a_bound_of_a_part_of_the_held_out_text_says_so():
    part = RESULTS["likelihood"] | {"num_texts": 512, "num_texts_of": 441000}
    results = Results(**RESULTS | {"likelihood": part})
    said = card_of(conditional("absorb"), results=results)
    assert "Held-out text, 512 of 441000 blocks, evenly spaced: at most 2.228" in said
    whole = Results(**RESULTS | {"likelihood": part | {"num_texts": 441000}})
    assert "Held-out text: at most" in card_of(conditional("absorb"), results=whole)


def test_what_is_not_known_is_said():
    text = card_of(models()["uniform_geometric"])
    assert "pipeline_tag" not in text
    assert "AutoModelForMaskedLM" not in text
    assert "What it was trained on is not recorded." in text
    assert "there are no figures" in text


@pytest.mark.parametrize(
    ("name", "license", "said"),
    [
        ("", "mit", "name must be letters, digits, -, _ and . (got '')"),
        ("a/b", "mit", "name must be letters"),
        ("names", "", "license must be a licence as the hub spells it"),
        ("names", "MIT", "(got 'MIT')"),
    ],
)
def test_a_name_and_a_licence_are_needed(name, license, said):
    with pytest.raises(ParamsError) as caught:
        Card(name, license)
    assert said in str(caught.value)


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path, conditional("absorb"))


def refusal(checkpoint, destination, **options):
    with pytest.raises((CheckpointError, ParamsError)) as caught:
        write_export(checkpoint, destination, Card("names", "mit"), **options)
    return str(caught.value)


def test_nothing_is_left_of_what_failed(checkpoint, tmp_path):
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    weights["blocks.0.attn_out.weight"][0, 0] = torch.nan
    save_file(weights, path)
    before = set(tmp_path.iterdir())
    said = refusal(checkpoint, tmp_path / "export")
    assert "blocks.0.attn_out.weight holds values that are no finite numbers" in said
    # The tokenizer is missing: found out when some files are written already.
    save_file(weights | {"blocks.0.attn_out.weight": torch.zeros(8, 8)}, path)
    (checkpoint / "tokenizer" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(Exception, match="has no pad_token, eos_token"):
        write_export(checkpoint, tmp_path / "export", Card("names", "mit"))
    assert set(tmp_path.iterdir()) == before


def test_another_method_is_refused(checkpoint, tmp_path):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": "embedding"}))
    assert refusal(checkpoint, tmp_path / "export") == (
        f"{checkpoint} is of method embedding; an export holds the score of method sedd"
    )


def test_only_an_earlier_export_is_replaced(checkpoint, tmp_path):
    folder, card = tmp_path / "export", Card("names", "mit")
    write_export(checkpoint, folder, card)
    (folder / "stale").touch()
    assert refusal(checkpoint, folder).startswith(f"{folder} is there already")
    write_export(checkpoint, folder, card, replace=True)
    assert not (folder / "stale").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    assert refusal(checkpoint, other, replace=True).startswith(f"{other} is there already")
    assert [path.name for path in Path(other).iterdir()] == ["mine"]


def test_the_mask_has_a_name_that_no_token_has(checkpoint, tmp_path):
    path = checkpoint / "tokenizer" / "tokenizer.json"
    parts = json.loads(path.read_text())
    vocab = parts["model"]["vocab"]
    vocab["<mask>"] = vocab.pop("A")
    path.write_text(json.dumps(parts))
    write_export(checkpoint, tmp_path / "export", Card("names", "mit"))
    named = json.loads((tmp_path / "export/tokenizer_config.json").read_text())
    assert named["mask_token"] == "<mask1>"
