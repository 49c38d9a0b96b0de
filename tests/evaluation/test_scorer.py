import hashlib
import json
from functools import partial

import pytest
import torch
from tiny_scorers import save_tiny_lm, tiny_model

from pipeline.data.tokenizer import train_char_tokenizer
from pipeline.errors import CheckpointError, PipelineError
from pipeline.evaluation.scorer import load_scorer, weights_sha256


@pytest.fixture
def model_folder(tmp_path):
    return save_tiny_lm(tmp_path / "tiny-lm")


@pytest.fixture
def baseline(tmp_path):
    tokenizer = train_char_tokenizer(["Anna", "Bella"])
    folder = tmp_path / "baseline"
    tokenizer.save(folder)
    tiny_model(tokenizer.size, 16).save_pretrained(folder)
    return folder, tokenizer


OTHER = train_char_tokenizer(["another"]).definition


def load(name, folder, tokenizer=OTHER, eos_id=1, precision="float32"):
    return load_scorer(
        name,
        baseline=folder,
        tokenizer=tokenizer,
        start_id=eos_id,
        device=torch.device("cpu"),
        precision=precision,
    )


def test_baseline_takes_ids(baseline):
    folder, tokenizer = baseline
    scorer = load("baseline", folder, tokenizer.definition)
    assert (scorer.name, scorer.start_id, scorer.model.max_tokens) == ("baseline", 1, 16)
    assert scorer.model.vocab_size == tokenizer.size
    weights = (folder / "model.safetensors").read_bytes()
    assert scorer.sha256 == hashlib.sha256(weights).hexdigest()
    assert scorer.precision == "float32"
    with pytest.raises(ValueError, match="reads no text"):
        scorer.encode(["Anna"])


def test_baseline_folder_serves_as_a_local_folder_too(baseline):
    folder, tokenizer = baseline
    scorer = load(str(folder), folder)
    assert scorer.name == "baseline"
    assert scorer.start_id == tokenizer.eos_id
    assert scorer.encode(["Anna", "", "Bella"]) == [
        tokenizer.encode(text) for text in ("Anna", "", "Bella")
    ]


def test_baseline_of_another_tokenizer(baseline):
    folder, _ = baseline
    with pytest.raises(CheckpointError, match="belongs to another tokenizer"):
        load("baseline", folder)


def test_baseline_that_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="no baseline in"):
        load("baseline", tmp_path)


def test_relative_folder_hangs_off_the_project(model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir("/")
    scorer = load("tiny-lm", tmp_path)
    assert scorer.name == "tiny-lm"
    assert scorer.start_id == model_folder.tokenizer.eos_token_id


def test_hash_is_of_the_weights_alone(model_folder, tmp_path):
    before = weights_sha256(model_folder.path)
    (model_folder.path / "README.md").write_text("other")
    assert weights_sha256(model_folder.path) == before
    tiny_model(300, 8, seed=1).save_pretrained(model_folder.path)
    assert weights_sha256(model_folder.path) != before


def test_hash_covers_every_shard(tmp_path):
    model = tiny_model(64, 8)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    before = weights_sha256(tmp_path)
    shards[-1].write_bytes(shards[-1].read_bytes() + b"x")
    assert weights_sha256(tmp_path) != before


def test_hub_model_without_network_is_one_clear_message(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name, allow_patterns, revision):
        assert name == "gpt2-large"
        raise LocalEntryNotFoundError("Got: ConnectError: Name or service not known\nAn error …")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(PipelineError) as caught:
        load("gpt2-large", tmp_path)
    message = str(caught.value)
    assert message.startswith("score.scorer: gpt2-large is neither on this machine nor")
    assert "\n" not in message


def test_hub_model_keeps_its_name(model_folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: str(model_folder.path)
    )
    assert load("gpt2", model_folder.path).name == "gpt2"


def test_folder_without_a_model(tmp_path):
    with pytest.raises(PipelineError, match=r"score\.scorer: .*holds no transformers model"):
        load(str(tmp_path / "nowhere"), tmp_path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def drop_tensor(path):
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, path, metadata={"format": "pt"})


def add_buffers(path):
    """As the hub's gpt2 has them, of an old transformers: masks, and names without a prefix."""
    from safetensors.torch import load_file, save_file

    weights = {name.removeprefix("transformer."): each for name, each in load_file(path).items()}
    masks = {f"h.{n}.attn.bias": torch.ones(1, 1, 8, 8) for n in range(2)}
    save_file(weights | masks, path, metadata={"format": "pt"})


def test_masks_of_an_old_transformers_are_no_weights(model_folder):
    expected = load(str(model_folder.path), model_folder.path)
    add_buffers(model_folder.path / "model.safetensors")
    found = load(str(model_folder.path), model_folder.path)
    ids = [torch.tensor([1, 2, 3])]
    assert torch.equal(found.model.states(ids), expected.model.states(ids))


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", truncate, "is damaged"),
        ("model.safetensors", drop_tensor, r"lack transformer\.h\.1\.mlp\.c_fc\.weight"),
        ("model.safetensors", lambda path: path.unlink(), "holds no transformers model"),
        ("config.json", lambda path: path.write_text("{}"), "score.scorer|is damaged"),
        ("tokenizer.json", lambda path: path.write_text("{}"), "no tokenizer can be loaded"),
        ("tokenizer.json", lambda path: path.write_text("null"), "no tokenizer can be loaded"),
        ("tokenizer_config.json", lambda path: path.write_text("null"), "no tokenizer can be load"),
        ("config.json", lambda path: path.write_text("null"), "score.scorer|is damaged"),
        ("config.json", lambda path: path.write_text("[" * 100_000), "score.scorer|is damaged"),
        ("config.json", partial(change, n_layer=1), r"no place for transformer\.h\.1\..* and \d+ "),
        ("config.json", partial(change, vocab_size="x"), "score.scorer|is damaged"),
        ("tokenizer_config.json", partial(change, eos_token=5), "no tokenizer can be loaded"),
        ("tokenizer_config.json", partial(change, tokenizer_class=5), "no tokenizer can be loaded"),
    ],
)
def test_damaged_folder_is_one_clear_error(model_folder, name, damage, message):
    damage(model_folder.path / name)
    with pytest.raises(CheckpointError, match=message):
        load(str(model_folder.path), model_folder.path)
