import csv
import json

import pytest
import typer
from tiny_project import set_params
from typer.testing import CliRunner

import pipeline.baseline.run
import stages.baseline
from pipeline.baseline.gpt2 import block_nats, check_baseline, load_baseline
from pipeline.config.params import load_params
from pipeline.data.packed import Packed
from pipeline.device import pick_device
from pipeline.errors import Interrupted

ARGUMENTS = [
    "artifacts/packed",
    "artifacts/tokenizer",
    "artifacts/baseline",
    "artifacts/runs/baseline.json",
    "reports/baseline_loss.csv",
]
OUTS = ["artifacts/baseline/model.safetensors", "reports/baseline_loss.csv"]


def run():
    app = typer.Typer()
    app.command()(stages.baseline.main)
    return CliRunner().invoke(app, ARGUMENTS)


def outs(folder):
    return [(folder / name).read_bytes() for name in OUTS]


def test_writes_model_run_and_losses(tiny):
    result = run()
    assert result.exit_code == 0, result.output
    packed = Packed.open(tiny / "artifacts/packed")
    check_baseline(
        tiny / "artifacts/baseline", tokenizer_sha256=packed.meta.tokenizer_sha256, length=16
    )
    facts = json.loads((tiny / "artifacts/runs/baseline.json").read_text())
    model = load_baseline(tiny / "artifacts/baseline", pick_device("cpu"))
    # 5,120 positions are 20 steps of 16 blocks of 16.
    assert (facts["num_steps"], facts["num_tokens"]) == (20, 5120)
    assert facts["num_params"] == sum(p.numel() for p in model.parameters())
    assert facts["tokens_per_second"] == pytest.approx(5120 / facts["seconds"])
    assert facts["device"] == "cpu"

    rows = list(csv.DictReader((tiny / "reports/baseline_loss.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["10", "20"]
    # The weights that were saved are those that were evaluated last, the averages.
    nats, _ = block_nats(model, packed.test[:32], batch_size=16)
    assert float(rows[-1]["eval_loss"]) == pytest.approx(nats.mean(), rel=1e-6)
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert not list((tiny / ".store/train").iterdir())


def test_evaluation_is_spread_over_the_split(tiny):
    set_params({"baseline.eval_blocks": 10})
    assert run().exit_code == 0
    rows = (tiny / "reports/baseline_loss.csv").read_text().splitlines()
    model = load_baseline(tiny / "artifacts/baseline", pick_device("cpu"))
    nats, _ = block_nats(model, Packed.open(tiny / "artifacts/packed").test[::4], batch_size=16)
    assert len(nats) == 10
    assert float(rows[-1].split(",")[2]) == pytest.approx(nats.mean(), rel=1e-6)


def test_a_step_begun_is_a_step(tiny):
    set_params({"baseline.num_tokens": 257})
    assert run().exit_code == 0
    facts = json.loads((tiny / "artifacts/runs/baseline.json").read_text())
    assert (facts["num_steps"], facts["num_tokens"]) == (2, 512)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_resumes_to_the_same_bytes(tiny, monkeypatch, dropout):
    set_params({"baseline.checkpoint_every": 4, "baseline.dropout": dropout})
    assert run().exit_code == 0
    expected = outs(tiny)
    for name in OUTS:
        (tiny / name).unlink()

    calls = []
    loss = pipeline.baseline.run.NextToken.loss

    def stopping(self, *drawn):
        calls.append(1)
        if len(calls) == 11:
            raise Interrupted("stopped")
        return loss(self, *drawn)

    monkeypatch.setattr(pipeline.baseline.run.NextToken, "loss", stopping)
    assert run().exit_code == 1
    assert not (tiny / OUTS[0]).exists()
    assert len(list((tiny / ".store/train").glob("baseline-*/state.pt"))) == 1
    assert run().exit_code == 0
    assert len(calls) == 11 + 12  # from step 8 on
    assert outs(tiny) == expected


def test_checkpoint_every_is_no_part_of_the_run(tiny):
    assert run().exit_code == 0
    expected = outs(tiny)
    set_params({"baseline.checkpoint_every": 3})
    assert run().exit_code == 0
    assert outs(tiny) == expected
    set_params({"baseline.seed": 1})
    assert run().exit_code == 0
    assert outs(tiny)[0] != expected[0]


def test_out_of_memory_names_the_parameter(tiny, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(pipeline.baseline.run, "fit", full)
    result = run()
    assert result.exit_code == 1
    advice = "raise baseline.accumulate or lower baseline.batch_size in params.yaml"
    assert f"error: out of memory: {advice} (" in result.stderr
    assert not (tiny / "artifacts/baseline").exists()


def test_missing_data_is_one_message(tiny):
    (tiny / "artifacts/packed/meta.json").unlink()
    result = run()
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert load_params().baseline.batch_size == 16
