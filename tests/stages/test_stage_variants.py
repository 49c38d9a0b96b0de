"""Every graph, noise and parameterisation through training, evaluation and sampling.

By params.yaml alone: what `dvc exp run -S diffusion.graph=uniform -S diffusion.noise=geometric`
writes there.
"""

import json
import math
from pathlib import Path

import pytest
from tiny_project import TINY, write_params

from pipeline.files import read_jsonl, read_object
from pipeline.methods.sedd import bound as bound_of_sedd
from stages import baseline, evaluate, sample, train

PACKED, TOKENIZER, CHECKPOINT, BASELINE = (
    Path("artifacts", name) for name in ("packed", "tokenizer", "checkpoint", "baseline")
)
SHORT = {"train.num_steps": 12, "train.warmup_steps": 2, "train.eval_every": 6}
VARIANTS = [
    {"diffusion.graph": "absorb", "diffusion.noise": "loglinear"},
    {"diffusion.graph": "absorb", "diffusion.noise": "geometric"},
    {"diffusion.graph": "uniform", "diffusion.noise": "loglinear"},
    {"diffusion.graph": "uniform", "diffusion.noise": "geometric"},
    {
        "diffusion.graph": "uniform",
        "diffusion.uniform.parameterization": "conditional",
        "diffusion.noise": "loglinear",
    },
    {"diffusion.absorb.parameterization": "raw", "diffusion.noise": "loglinear"},
    {"diffusion.absorb.parameterization": "raw", "diffusion.noise": "geometric"},
]


def train_both(folder, changes):
    write_params(folder, TINY | SHORT | {"baseline.num_tokens": 512} | changes)
    for stage, out in (train, CHECKPOINT), (baseline, BASELINE):
        reports = [Path(f"{out.name}.{kind}") for kind in ("jsonl", "json", "csv")]
        stage.main(PACKED, TOKENIZER, out, *reports[stage is baseline :])


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(changes.values()))
def test_a_variant_trains_evaluates_and_samples_by_its_parameters_alone(tiny, changes):
    train_both(tiny, changes)
    evaluate.main(CHECKPOINT, BASELINE, PACKED, Path("likelihood.json"))
    sample.main(3, CHECKPOINT, TOKENIZER, Path("samples"))

    config = json.loads((CHECKPOINT / "config.json").read_text())
    graph = changes.get("diffusion.graph", "absorb")
    assert (config["graph"], config["noise"]) == (graph, changes["diffusion.noise"])
    conditional = {"absorb": "conditional", "uniform": "raw"}[graph]
    chosen = changes.get(f"diffusion.{graph}.parameterization", conditional)
    assert config["parameterization"] == chosen
    raw = graph == "uniform" or chosen == "raw"
    # Only the schedule in use is written.
    assert (config["eps"] is None) == (config["noise"] == "geometric")
    values = read_object(Path("likelihood.json"))
    assert 0.5 < values["bound_nats_per_char"] < 20
    assert 0 < values["bound_mc_stderr"] < 1
    assert all(math.isfinite(nats) for nats in values["terms"].values())
    # Only a network that takes sigma starts short of all noise and stops at t_min; geometric so
    # near to 0 that none of these few draws moves.
    assert (values["terms"]["prior"] > 0) == raw
    if changes["diffusion.noise"] == "loglinear" or not raw:
        assert (values["terms"]["reconstruction"] > 0) == raw
    rows = read_jsonl(Path("samples/3.jsonl"))
    assert len(rows) == 16
    assert all(0 <= i < config["vocab_size"] for row in rows for i in row["ids"])
    assert all(1 <= row["nfe"] <= 4 for row in rows)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embedding.recipe": "simple"},
        {
            "embedding.bound.loss": "likelihood",
            "embedding.bound.clock": "nats",
            "embedding.bound.input": "vector",
            "embedding.bound.norm": "layernorm",
        },
        {"embedding.bound.loss": "cross_entropy", "embedding.bound.self_condition": 0},
    ],
    ids=["bound", "simple", "likelihood", "no estimates"],
)
def test_embedding_diffusion_does_so_too(tiny, changes):
    train_both(tiny, {"method": "embedding", "sample.temperature": 0.9} | changes)
    evaluate.main(CHECKPOINT, BASELINE, PACKED, Path("likelihood.json"))
    sample.main(3, CHECKPOINT, TOKENIZER, Path("samples"))

    config = read_object(CHECKPOINT / "config.json")
    recipe = config["loss"] == "mse_cross_entropy"
    assert recipe == ("embedding.recipe" in changes)
    values = read_object(Path("likelihood.json"))
    assert values["terms"].keys() == {"integral", "prior", "reconstruction"}
    assert 0.5 < values["bound_nats_per_char"] < 20
    assert all(math.isfinite(nats) for nats in values["terms"].values())
    assert ("two passes" in values.get("bound_of", "")) == (config["self_condition"] > 0)
    rows = read_jsonl(Path("samples/3.jsonl"))
    assert all(0 <= i < config["vocab_size"] for row in rows for i in row["ids"])
    assert {row["nfe"] for row in rows} == {4}
    assert {row["predictor"] for row in rows} == {"ddpm"}
    (first, *_, last), *_ = read_object(Path("samples/3.trace.json"))["samples"]
    assert first["t"] == 1
    assert "░" in first["text"]
    assert "░" not in last["text"]


def test_a_text_that_is_impossible_is_told_of_and_nothing_is_written(tiny, monkeypatch, capsys):
    train_both(tiny, {"diffusion.graph": "uniform"})
    draw_bound = bound_of_sedd.draw_bound

    def with_impossible_texts(model, x0, **options):
        bound = draw_bound(model, x0, **options)
        bound.reconstruction[3, :2] = math.inf
        return bound

    monkeypatch.setattr("pipeline.methods.sedd.method.draw_bound", with_impossible_texts)
    with pytest.raises(SystemExit) as ended:
        evaluate.main(CHECKPOINT, BASELINE, PACKED, Path("likelihood.json"))
    assert ended.value.code == 1
    assert "the bound is infinite for 2 of 40 texts" in capsys.readouterr().err
    assert not Path("likelihood.json").exists()
