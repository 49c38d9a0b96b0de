"""`train.init`: training that starts from given weights, or leaves them as they are."""

import csv
import io
import json
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_project import TINY, write_params

from pipeline.checkpoints.checkpoint import About, checkpoint_config, save_checkpoint, warm_start
from pipeline.config.params import load_params
from pipeline.data.tokenizer import TextTokenizer
from pipeline.errors import CheckpointError
from pipeline.files import folder_revision
from pipeline.methods.sedd.method import config_of
from pipeline.methods.sedd.model import SEDD, SEDDConfig
from stages import train as stage

OUTS = ("checkpoint", "snapshots.jsonl", "run.json", "loss.csv")
GIVEN = Path("given")


def train(tiny: Path, out: Path, changes: dict[str, object]) -> str:
    """Run the stage; returns what it says on stderr if it fails."""
    folder = tiny / str(changes.get("train.init"))
    pinned = {"train.init_revision": folder_revision(folder)}
    write_params(tiny, TINY | pinned | changes)
    inputs = ("artifacts/packed", "artifacts/tokenizer")
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            stage.main(*map(Path, inputs), *(out / name for name in OUTS))
    except SystemExit:
        return said.getvalue()
    return ""


def losses(out: Path) -> list[dict[str, str]]:
    with (out / "loss.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def given(tiny):
    """A checkpoint of the tiny model, its weights random."""
    write_params(tiny, TINY)
    text = TextTokenizer.load(Path("artifacts/tokenizer"))
    torch.manual_seed(1)
    model = SEDD(config_of(load_params(), text.size, 16))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_checkpoint(
        GIVEN, model, tokenizer=Path("artifacts/tokenizer"), tokenizer_sha256=text.sha256
    )
    return tiny


def test_no_steps_leave_the_weights_as_they_are(given):
    out = Path("kept")
    assert train(given, out, {"train.init": str(GIVEN), "train.num_steps": 0}) == ""
    weights = "model.safetensors"
    assert (out / "checkpoint" / weights).read_bytes() == (GIVEN / weights).read_bytes()
    [row] = losses(out)
    assert (row["step"], row["train_loss"], row["lr"]) == ("0", "", "")
    assert float(row["eval_loss"]) > 0
    [snapshot] = map(json.loads, (out / "snapshots.jsonl").read_text().splitlines())
    assert (snapshot["step"], snapshot["loss"], len(snapshot["texts"])) == (0, None, 2)
    run = json.loads((out / "run.json").read_text())
    assert run["num_tokens"] == 0
    assert run["tokens_per_second"] is None
    assert run["init_sha256"] == run["sha256"]
    assert list(Path(".store/train").iterdir()) == []


def test_a_warm_start_goes_on_from_where_the_weights_are(given):
    init = {"train.init": str(GIVEN)}
    assert train(given, Path("kept"), init | {"train.num_steps": 0}) == ""
    assert train(given, Path("warm"), init) == ""
    rows = losses(Path("warm"))
    assert rows[0] == losses(Path("kept"))[0]
    assert rows[-1]["step"] == "40"
    assert float(rows[-1]["eval_loss"]) < 0.95 * float(rows[0]["eval_loss"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.width": 32, "model.num_heads": 4}, "model.width is 32 here and 16 there"),
        pytest.param(
            {"diffusion.absorb.parameterization": "raw"},
            "is raw here and conditional there",
            marks=pytest.mark.slow,
        ),
        ({"method": "embedding"}, "is of the method sedd, and method is embedding"),
        ({"train.init": "nowhere"}, "no checkpoint in"),
    ],
)
def test_other_weights_are_refused_in_one_line(given, changes, message):
    errors = train(given, Path("refused"), {"train.init": str(GIVEN)} | changes)
    assert message in errors.splitlines()[-1]
    assert not Path("refused").exists()


def test_other_bytes_than_those_pinned_are_refused(given):
    init = {"train.init": str(GIVEN), "train.num_steps": 0}
    pinned = {"train.init_revision": folder_revision(GIVEN)}
    (GIVEN / "config.json").write_text((GIVEN / "config.json").read_text() + "\n")
    (GIVEN / ".hidden").write_text("no part of it")
    errors = train(given, Path("refused"), init | pinned)
    assert "train.init_revision: the files in" in errors
    assert folder_revision(GIVEN) in errors
    assert "is not pinned: `sedd pin`" in train(
        given, Path("refused"), init | {"train.init_revision": None}
    )
    assert not Path("refused").exists()


def test_weights_of_another_tokenizer_are_refused(given):
    config = checkpoint_config(GIVEN)
    (GIVEN / "config.json").write_text(json.dumps(config | {"tokenizer_sha256": "0" * 64}))
    errors = train(given, Path("refused"), {"train.init": str(GIVEN)})
    assert "was trained with tokenizer 000000000000" in errors.splitlines()[-1]


def test_what_no_weight_depends_on_may_differ_and_the_scale_is_kept(given):
    raw = checkpoint_config(GIVEN) | {"parameterization": "raw", "scale_by_sigma": False}
    about = {key: raw.pop(key) for key in About.model_fields}
    torch.manual_seed(0)
    folder = Path("raw")
    shutil.copytree(GIVEN, folder)
    source = SEDD(SEDDConfig(**raw))
    save_file(source.network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw | about))
    other = raw | {"length": 32, "eps": 1e-4, "dropout": 0.1, "scale_by_sigma": True}
    model = warm_start(SEDDConfig(**other), folder, torch.device("cpu"))
    assert model.config.length == 32
    assert model.config.scale_by_sigma is False
    for name, value in source.network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value)
    narrower = SEDDConfig(**(raw | {"cond_dim": 4}))
    with pytest.raises(CheckpointError, match=r"sigma_map.mlp.0.weight has shape"):
        warm_start(narrower, folder, torch.device("cpu"))


def test_biases_of_norms_come_with_the_weights(given):
    own = checkpoint_config(GIVEN)
    about = {key: own.pop(key) for key in About.model_fields}
    source = SEDD(SEDDConfig(**own, norm_bias=True))
    save_checkpoint(
        Path("biased"),
        source,
        tokenizer=Path("artifacts/tokenizer"),
        tokenizer_sha256=about["tokenizer_sha256"],
    )
    model = warm_start(SEDDConfig(**own), Path("biased"), torch.device("cpu"))
    assert model.config == source.config
    assert checkpoint_config(Path("biased"))["norm_bias"] is True
    assert "norm_bias" not in checkpoint_config(GIVEN)
    for name, value in source.network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value)
